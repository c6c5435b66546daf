"""Several processes that train one policy: who they are, and what they tell each other.

`torchrun` or `accelerate launch` start them and name each by environment variables. In one process nothing here does
anything. Every process calls these functions in the same order: each waits for the others.

Tested with gloo on CPUs; NCCL and GPUs have not been tried.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from alignbench.errors import TrainingError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_PATIENCE = timedelta(hours=12)
"""How long a process waits for the others, which may be evaluating; a process that dies ends all by the launcher."""


def join() -> None:
    """Joins the processes that the launcher has started; does nothing in one process, or when called again.

    Raises:
        UsageError: The launcher has not said who this process is, or has started more processes than there are GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} not set: start several processes by "
            "torchrun or accelerate launch, or unset WORLD_SIZE for one"
        )
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        place, n_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= n_gpus:
            raise UsageError(
                f"got more processes on this machine than its {n_gpus} GPUs, expected one for each at most"
            )
        torch.cuda.set_device(place)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo", timeout=_PATIENCE)


def leave() -> None:
    """Ends what `join` began, when all is done."""
    if world_size() > 1:
        from torch import distributed

        distributed.destroy_process_group()


def world_size() -> int:
    """The number of processes."""
    from torch import distributed

    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0; the first one writes what is written."""
    from torch import distributed

    return distributed.get_rank() if world_size() > 1 else 0


def share() -> slice:
    """Which rows of a batch are this process's: every `world_size`-th, so that order and lengths are spread evenly."""
    return slice(rank(), None, world_size())


def gather(value: T) -> list[T]:
    """What each process has, in the order of processes; pickled."""
    if world_size() == 1:
        return [value]
    from torch import distributed

    values: list[T] = [value] * world_size()
    distributed.all_gather_object(values, value)
    return values


def from_first(value: T) -> T:
    """What the first process has, whatever the others give; pickled."""
    if world_size() == 1:
        return value
    from torch import distributed

    values = [value]
    distributed.broadcast_object_list(values, src=0)
    if isinstance(values[0], _Failure) and rank() > 0:
        raise TrainingError(f"process 0: {values[0].message}")
    return values[0]


class _Failure(NamedTuple):
    """Takes the place of what the first process was to give."""

    message: str


@contextmanager
def awaited() -> Iterator[None]:
    """The others wait in `from_first` for what follows this block; where the first process fails in it, they raise."""
    try:
        yield
    except Exception as error:
        if rank() == 0 and world_size() > 1:
            from_first(_Failure(str(error) or type(error).__name__))
        raise


def gather_list(values: Sequence[T]) -> list[T]:
    """The whole list of whose `share` each process has; all have equally many."""
    return [value for row in zip(*gather(list(values)), strict=True) for value in row]


def gather_rows(rows: Tensor) -> Tensor:
    """The whole tensor, (n * world_size, ...), of whose `share` (n, ...) each process has; bit for bit."""
    if world_size() == 1:
        return rows
    import torch
    from torch import distributed

    content = rows.contiguous().flatten().view(torch.uint8)  # the backends do not know every type
    parts = [torch.empty_like(content) for _ in range(world_size())]
    distributed.all_gather(parts, content)
    return torch.stack([part.view(rows.dtype).view(rows.shape) for part in parts], dim=1).flatten(0, 1)


@contextmanager
def agreed() -> Iterator[None]:
    """Within the block each process works by itself; where one fails, all raise after it, so that none waits on.

    Raises:
        TrainingError: The block has failed in another process.
    """
    if world_size() == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    messages = gather(None if error is None else str(error) or type(error).__name__)
    if error is not None:
        raise error
    for number, message in enumerate(messages):
        if message is not None:
            raise TrainingError(f"process {number}: {message}")


@contextmanager
def first_process_first() -> Iterator[None]:
    """The first process goes through the block alone, then the others: they find what it has put into caches."""
    if rank() > 0:
        from_first(None)
        yield
        return
    with awaited():
        yield
    from_first(None)
