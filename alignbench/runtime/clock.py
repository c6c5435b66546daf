"""What a run stands on: random numbers, device, clocks, peak memory, progress, the environment's description."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.errors import UsageError
from alignbench.records import Cost
from alignbench.runtime import distributed

if TYPE_CHECKING:
    import numpy as np
    import torch

GIB = 2**30
_PACKAGES = ("alignbench", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "numpy", "pandas", "scipy")

Key = Sequence[int | str]
"""Names one stream of random numbers, e.g. `(seed, "rollout", step)`."""

Advance = Callable[[], None]

STAGE = "stage: "
"""Begins the names of stages in a profile."""


def generator(*key: int | str) -> np.random.Generator:
    """Returns a counter-based random generator that depends on the key alone (Philox, keyed by SHA-256)."""
    import numpy as np

    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))


def cache_directory() -> Path:
    """Where prepared data is kept: `ALIGNBENCH_CACHE`, else `~/.cache/alignbench`."""
    return Path(os.environ.get("ALIGNBENCH_CACHE") or Path.home() / ".cache" / "alignbench")


def seed_everything(seed: int) -> None:
    """Seeds Python's, numpy's and torch's global generators, for libraries that draw from them."""
    import random

    import numpy as np
    import rich.style  # noqa: F401 - draws a number when it is imported, which must not happen behind the seed
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the legacy global generator is what libraries draw from
    torch.manual_seed(seed)


def set_threads(threads: int | None) -> None:
    """Sets the number of CPU threads of torch; None is the number that the process started with."""
    import torch

    initial = _initial_threads()  # read before the first change
    torch.set_num_threads(threads or initial)


@cache
def _initial_threads() -> int:
    import torch

    return torch.get_num_threads()


def quiet_libraries() -> None:
    """Turns off the progress bars and notices of libraries: alignbench shows its own."""
    import warnings

    import datasets
    import transformers

    # TRL 1.16 asks transformers 5.23 whether checkpointing is on by a name that is to go in version 6.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def choose_device(wanted: str) -> torch.device:
    """Returns the device for `auto`, `cpu` or `cuda`; UsageError where CUDA is asked for and absent.

    Of several processes each has a GPU of its own, chosen by `distributed.join`.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("hardware.device: got 'cuda', but torch sees no CUDA device; use 'auto' or 'cpu'")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and distributed.world_size() > 1:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(wanted)


def hardware_class(device: torch.device) -> str:
    """Returns what must be equal for costs to be comparable, e.g. `cpu-x86_64` or `cuda-NVIDIA H200`."""
    import torch

    if device.type == "cuda":
        return f"cuda-{torch.cuda.get_device_name(device)}"
    return f"{device.type}-{platform.machine()}"


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Returns the versions, platform and hardware of this process; no host names and no paths."""
    import torch

    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "packages": versions,
        "hardware_class": hardware_class(device),
        "n_cpus": os.cpu_count(),
        "n_threads": torch.get_num_threads(),
        "n_processes": distributed.world_size(),
    }


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
    return peak / GIB


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


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Advance]:
    """Shows a progress bar on standard error; yields a function that moves it on by one.

    Where standard error is no terminal, one line says what has begun and how long it took. Of several processes the
    first one shows it.
    """
    if distributed.rank() > 0:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        started = time.perf_counter()
        print(f"{description} ...", file=sys.stderr, flush=True)
        yield lambda: None
        print(f"{description}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total)
        yield lambda: bar.advance(task)


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Within the block, glibc keeps freed memory for what is allocated next; behind it, it gives it back.

    By default every large tensor is a mapping of its own, and each of its pages faults anew in every iteration of a
    training loop. Elsewhere than on glibc nothing is done, nor where the environment has settings of its own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or any(name.startswith("MALLOC_") for name in os.environ):
        yield
        return
    # Older releases take no threshold above the largest that their own adjustment comes to.
    if not mallopt(_MMAP_THRESHOLD, 2**30):
        mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)
        ctypes.CDLL(None).malloc_trim(0)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**25
