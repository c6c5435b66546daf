"""Scoring on a GPU beside the passes of the policy: neither needs what the other gives.

Scoring goes to a thread, because much of it is work of the host (tokenizing, launching kernels), with a CUDA stream of
its own. The trainer draws no random numbers meanwhile, so a reward that draws some gets the same ones.

Not yet run on a GPU: the thread is tested on a CPU, the stream is not.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from torch import nn

from alignbench.scorers.base import modules_of

T = TypeVar("T")


def may_overlap(reward: object, policy: nn.Module, device: torch.device) -> bool:
    """True where scoring may run beside the policy: on a GPU, by modules that share no weight with the policy.

    A scorer says by its `modules` that it runs these alone. A Python function says nothing of the kind: it may use the
    policy, whose weights are for a moment those of the reference, or what bears no second thread.
    """
    modules = modules_of(reward)
    if device.type != "cuda" or not modules:
        return False
    own = {id(parameter) for parameter in policy.parameters()}
    return not any(id(parameter) in own for module in modules for parameter in module.parameters())


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all batches: what is freed on a stream is memory for that stream alone."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def start(work: Callable[[], T], device: torch.device) -> Callable[[], T]:
    """Starts work in a thread; the returned function waits for its outcome, or raises what it raised."""
    stream = _stream(device) if device.type == "cuda" else None

    def on_stream() -> T:
        with torch.cuda.stream(stream):  # None changes nothing
            return work()

    pool = ThreadPoolExecutor(1, thread_name_prefix="scoring")
    future = pool.submit(on_stream)
    pool.shutdown(wait=False)
    return future.result
