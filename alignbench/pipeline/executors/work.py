"""A run as something that can be sent to another process or machine, and carried out there."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alignbench.errors import AlignbenchError, UsageError
from alignbench.pipeline.executors.base import Ended, Order
from alignbench.pipeline.plan import Key, folder
from alignbench.results import layout
from alignbench.results.files import write_atomically
from alignbench.results.lock import RunLock


class UnseenError(UsageError):
    """The results directory of the command is not seen on this machine."""


@dataclass(frozen=True, slots=True)
class Work:
    """A run to carry out: its resolved recipe, with those that it builds on beside it, and where results go."""

    key: Key
    recipe: Path
    results: Path
    place: Path
    """The folder of the results directory that the run belongs to: that of trials is another."""
    run_hash: str
    is_tuned: bool
    """True where a sweep has selected its settings, which it is charged with."""
    force: bool
    profile: bool

    @property
    def final(self) -> Path:
        """Where the run is when it is complete."""
        return layout.run_path(self.place, *self.key)

    @property
    def partial(self) -> Path:
        """Where it is until then."""
        return layout.partial_path(self.place, *self.key)

    @property
    def tuning(self) -> Path:
        """The record of its sweep."""
        return layout.tuning_path(self.results, self.key[0])

    @property
    def is_seen(self) -> bool:
        """True where this machine sees the results directory of the command."""
        return (self.recipe.parents[2] / layout.ORDER_LOCK).exists()


@contextmanager
def written(order: Order) -> Iterator[Mapping[Key, Work]]:
    """Writes the resolved recipes into the results directory for the time of the block, and yields the work by run.

    They lie as those of runs do, so that each is found by what builds on it.
    """
    results = order.results.absolute()
    ordered = results / layout.JOBS / f"{os.getpid()}-{time.time_ns()}"
    ordered.mkdir(parents=True)
    lock = RunLock(ordered / layout.ORDER_LOCK)
    works = {}
    for key, one in order.planned.items():
        file = layout.run_path(ordered, *key) / layout.RECIPE_FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, one.recipe.to_yaml())
        works[key] = Work(
            key, file, results, folder(one.recipe, results), one.run_hash, is_tuned=key[0] in order.tuning,
            force=order.forces(key), profile=order.profile,
        )  # fmt: skip
    try:
        yield works
    finally:
        lock.release()
        shutil.rmtree(ordered, ignore_errors=True)


def carry_out(work: Work) -> Ended:
    """Carries out a run in this process. Whatever happens is in what it returns, an interrupt included."""
    from alignbench.pipeline.execute import ended
    from alignbench.pipeline.plan import plan
    from alignbench.recipe.loading import load
    from alignbench.results.schema import TuningFile, read_record

    try:
        if not work.recipe.exists():
            raise UnseenError(
                f"{work.results}: not seen on {socket.gethostname()}; expected a file system that all share"
            )
        planned = plan(load([str(work.recipe)]))[-1]
        if planned.run_hash != work.run_hash:
            raise AlignbenchError(f"{work.recipe}: reads as another run here; is alignbench of the same version there?")
        tuning = read_record(work.tuning, TuningFile) if work.is_tuned else None
        return ended(planned, work.results, tuning, force=work.force, profile=work.profile)
    except AlignbenchError as error:
        return Ended("failed", error=error)
    except KeyboardInterrupt:
        return Ended("stopped")


def environment_of_share(n: int, place: int, n_cpus: int, gpus: Sequence[str]) -> dict[str, str]:
    """The environment of one of n workers of a machine: its share of the cores, and a GPU of its own in turn."""
    threads = str(max(1, n_cpus // n))
    gpu = {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {}
    return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **gpu}
