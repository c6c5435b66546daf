"""What work costs: clocks and peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from alignbench.records import Cost

if TYPE_CHECKING:
    import torch

STAGE = "stage: "
"""Begins the names of stages in a profile."""


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Names the block in a profile, if one is being taken."""
    from torch.profiler import record_function

    with record_function(STAGE + name):
        yield


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self, device: torch.device) -> None:
        self._on_cpu = device.type == "cpu"
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def wall_seconds(self) -> float:
        """By the clock on the wall."""
        return time.perf_counter() - self._wall

    @property
    def device_seconds(self) -> float:
        """Of the device: on a CPU what all threads of this process used of it, on a GPU how long it was held."""
        return time.process_time() - self._cpu if self._on_cpu else self.wall_seconds


@contextmanager
def measured(cost: Cost, device: torch.device) -> Iterator[None]:
    """Adds the wall and device seconds of the block to `cost` and raises its peak memory to the block's.

    The peak is the resident set of this process, plus what torch allocated on a GPU. On Linux the kernel's
    high-water mark is reset first, so that a run is not charged for the run before it.
    """
    _reset_peaks()
    watch = Stopwatch(device)
    try:
        yield
    finally:
        cost.wall_seconds += watch.wall_seconds
        cost.device_seconds += watch.device_seconds
        cost.peak_memory_gib = max(cost.peak_memory_gib, peak_memory_gib())


@contextmanager
def set_aside(cost: Cost, other: Cost, device: torch.device) -> Iterator[None]:
    """Within a block that is `measured` for `cost`: charges this part of it to `other` instead."""
    cost.peak_memory_gib = max(cost.peak_memory_gib, peak_memory_gib())
    before = replace(other)
    try:
        with measured(other, device):
            yield
    finally:
        spent = other.since(before)
        cost.wall_seconds -= spent.wall_seconds
        cost.device_seconds -= spent.device_seconds
        _reset_peaks()


def peak_memory_gib() -> float:
    """The highest resident set of this process, plus what torch allocated on a GPU, since `measured` began."""
    import torch

    peak = _peak_resident_bytes()
    if torch.cuda.is_available():
        peak += torch.cuda.max_memory_allocated()
    return peak / 2**30


def _reset_peaks() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux, or not permitted: the peak is then that of the whole process


def _peak_resident_bytes() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
