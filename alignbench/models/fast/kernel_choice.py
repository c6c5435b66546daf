"""Which of several kernels multiplies a matrix: found out on the machine, once for each class of products.

On one processor oneDNN is twice as fast as MKL, on another it takes a third longer. So the first product of a class is
timed with every kernel, and the fastest is taken from then on. What was found is kept in `ALIGNBENCH_CACHE`, for this
processor, number of threads and build of torch, so that every process on the machine takes the same, and numbers are
equal to the bit. Between kernels they differ by rounding, which is why a training that goes on from a checkpoint keeps
the kernels that it began with (`KernelChoice.state`, `adopt`).
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from filelock import FileLock

from alignbench.errors import UsageError
from alignbench.records import fingerprint
from alignbench.runtime.device import cache_directory

logger = logging.getLogger(__name__)

KERNELS = ("linear", "weight_first", "onednn")
"""`torch.nn.functional.linear` (MKL on x86), the same product with the weight as its left factor, and
`functional.linear` of an input in the layout of oneDNN."""
VARIABLE = "ALIGNBENCH_KERNELS"
"""The environment variable that names the kernel of all products; unset or `measured`: of each class the fastest.

A process that has gone on from a checkpoint puts the kernels of that into it, for the processes that it starts."""
WORTH_IT = 0.95
"""Another kernel is taken where it needs at most this share of the time of `linear`."""
_LEAST_ROUNDS, _ROUNDS = 3, 9
_CLEARLY = 1.2
"""Fewer rounds do where kernels differ by this factor in each of them."""
_MULTIPLICATIONS = 2.5e7
"""The most that is timed: a larger product is represented by one of fewer columns, which has the same rate."""
_FEW_ROWS = 64
"""Up to so many, the time depends on the remainder of rows by 16, and a weight that no cache holds waits for memory."""
_OF_A_CACHE = 2**25
"""Numbers of a weight from which on it comes from memory at each product."""
_SHORTEST = 2e-4
"""Seconds that one timing lasts at least."""


class Product(NamedTuple):
    """A class of products: a matrix with about this many rows, times the weight of a linear layer."""

    rows: int
    n_in: int
    n_out: int
    use: str
    """`forward`: without gradients; `frozen`: with that of the input; `trained`: with that of the weight as well."""

    def __str__(self) -> str:
        return f"{self.rows} x {self.n_in} x {self.n_out} {self.use}"

    @property
    def example(self) -> Product:
        """What is timed in its place."""
        most = max(256, int(_MULTIPLICATIONS / (self.rows * self.n_in)))
        if self.rows <= _FEW_ROWS and self.n_in * self.n_out > _OF_A_CACHE:
            most = max(most, _OF_A_CACHE // self.n_in)
        return self._replace(n_out=min(self.n_out, most))

    def gflop_per_s(self, seconds: float) -> float:
        """The rate of multiplying it, gradients included, in so many seconds."""
        rows, n_in, n_out, use = self
        return {"forward": 2e-9, "frozen": 4e-9, "trained": 6e-9}[use] * rows * n_in * n_out / seconds


Trial = Callable[[Product], Mapping[str, Callable[[], object]]]
"""By kernel, what multiplies such a product once, gradients included."""
Rounds = Mapping[str, Sequence[float]]
"""By kernel, the seconds of each round."""


MEASURED: Mapping[str, Any] = {"all": None, "products": {}}
"""The `state` of a run in which nothing is forced and nothing was taken yet."""


class KernelChoice:
    """The kernels of one run."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._handed_on: tuple[str, str] | None = None
        """What `adopt` has put into the environment, and what was there before."""
        self._set(MEASURED)
        self._has_begun = False

    def begin(self) -> None:
        """Starts a run, which does not depend on those before it in the same process.

        Raises:
            UsageError: The environment variable says what is no kernel.
        """
        if self._handed_on is not None and os.environ.get(VARIABLE) == self._handed_on[0]:
            os.environ[VARIABLE] = self._handed_on[1]
        self._handed_on = None
        self._set(_wanted(os.environ.get(VARIABLE, "")))

    def _set(self, state: Mapping[str, Any]) -> None:
        self._forced: str | None = state["all"]
        self._kept: dict[str, str] = dict(state["products"])
        self._taken: dict[Product, str] = {}
        self._seconds: dict[Product, Mapping[str, float]] = {}
        self._has_begun = True

    def kernel_for(self, rows: int, n_in: int, n_out: int, use: str) -> str:
        """The kernel of the product of (rows, n_in) by (n_in, n_out), used as `Product` says."""
        product = (rounded(rows), n_in, n_out, use)
        taken = self._taken.get(product)  # type: ignore[call-overload]
        return taken if taken is not None else self._take(Product(*product))

    def _take(self, product: Product) -> str:
        if not self._has_begun:
            self.begin()
        kernel = self._kept.get(str(product)) or self._forced
        if kernel is None:
            self._seconds[product] = seconds = _seconds_on_this_machine(product, self._trial)
            kernel = fastest(seconds)
        if kernel == "onednn" and not _has_onednn():  # the checkpoint comes from another machine
            kernel = "linear"
        self._taken[product] = kernel
        return kernel

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: JSON."""
        return {"all": self._forced, "products": self._kept | {str(key): name for key, name in self._taken.items()}}

    def rule(self) -> dict[str, Any]:
        """What decides which kernels are taken: what is forced or was adopted, and the machine. JSON-like."""
        if not self._has_begun:
            self.begin()
        machine = _machine(torch.get_num_threads())
        return {"all": self._forced, "products": dict(self._kept), "machine": fingerprint(machine)}

    def adopt(self, state: Mapping[str, Any] | None) -> None:
        """Takes from now on the kernels of a checkpoint, whatever is faster or forced here; None: it has none."""
        if state is None:
            return
        self.begin()
        self._set(state)
        self._handed_on = json.dumps(dict(state)), os.environ.get(VARIABLE, "")
        os.environ[VARIABLE] = self._handed_on[0]

    def report(self) -> str:
        """What was taken and why, for people: a line for each class of products."""
        if not self._taken:
            return "products: none large enough for a choice of kernels"
        lines = [f"{'product (rows x in x out)':<38}{'kernel':<15}why"]
        for product, kernel in sorted(self._taken.items()):
            rates = {name: product.example.gflop_per_s(one) for name, one in self._seconds.get(product, {}).items()}
            why = "GFLOP/s: " + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
            if not rates:
                why = "as in the checkpoint" if str(product) in self._kept else VARIABLE if self._forced else "no cache"
            lines.append(f"  {product!s:<36}{kernel:<15}{why}")
        return "\n".join(lines)


def rounded(rows: int) -> int:
    """The rows of a class: 9 to 64 are rounded up to a multiple of 8, others to the nearest power of 2, by ratio."""
    if 8 < rows <= _FEW_ROWS:
        return -(-rows // 8) * 8
    return int(1 << ((2 * rows * rows).bit_length() - 1) // 2)


def _wanted(value: str) -> Mapping[str, Any]:
    """The state that the environment variable asks for."""
    if value in ("", "measured"):
        return MEASURED
    if value in KERNELS:
        if value == "onednn" and not _has_onednn():
            raise UsageError(f"{VARIABLE}: got 'onednn', but this torch is built without oneDNN; use 'linear'")
        return {"all": value, "products": {}}
    with suppress(ValueError, KeyError, TypeError, AttributeError):  # of the process that has started this one
        state = json.loads(value)
        if {*state["products"].values(), state["all"] or "linear"} <= set(KERNELS):
            return dict(state)
    raise UsageError(f"{VARIABLE}: got {value!r}, expected one of {', '.join((*KERNELS, 'measured'))}")


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def fastest(seconds: Mapping[str, float]) -> str:
    """The kernel to take by what each needed: `linear` unless another is clearly faster."""
    best = min(seconds, key=lambda name: seconds[name], default="linear")
    return best if best != "linear" and seconds[best] <= WORTH_IT * seconds.get("linear", float("inf")) else "linear"


def _seconds_on_this_machine(product: Product, trial: Trial) -> Mapping[str, float]:
    """Seconds by kernel, measured once for all processes; empty where they could not be kept for the next one."""
    machine = _machine(torch.get_num_threads())
    path = cache_directory() / "kernels" / f"{fingerprint(machine)}.json"
    found = _read(path).get(str(product))
    if found is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            known = _read(path)  # another process may have measured meanwhile
            if str(product) not in known:
                known[str(product)] = measured(product, trial)
                scratch = path.with_suffix(".new")
                scratch.write_text(json.dumps({"machine": machine, "seconds": known}, indent=1), encoding="utf-8")
                os.replace(scratch, path)
            return known[str(product)]
    except (OSError, NotImplementedError) as error:  # a file system without locks raises the latter
        _warn_once(str(error))
        return {}


def _read(path: Path) -> dict[str, dict[str, float]]:
    """What was measured; nothing where any of it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["seconds"]
        return {str(product): {name: float(one) for name, one in by.items()} for product, by in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


@cache
def _warn_once(error: str) -> None:
    logger.warning(
        "matrices are multiplied by functional.linear, because a choice of kernels could not be kept (%s); set "
        "ALIGNBENCH_CACHE to a folder that can be written, or %s to one of %s",
        error, VARIABLE, ", ".join(KERNELS),
    )  # fmt: skip


@cache
def _machine(n_threads: int) -> dict[str, object]:
    """What the rates depend on."""
    names = "vendor_id|cpu family|model|model name|stepping|flags|CPU implementer|CPU part|Features"
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
        processor = re.findall(rf"^((?:{names})\s*:.*)$", first, re.MULTILINE)
    except OSError:
        processor = [platform.processor()]
    return {
        "processor": [platform.machine(), *processor],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": [torch.__version__, *re.findall(r"(?:Math Kernel Library|MKL-DNN).*", torch.__config__.show())],
        "kernels": list(KERNELS),
        "threads": n_threads,
    }


def measured(product: Product, trial: Trial) -> dict[str, float]:
    """Seconds of each kernel for `product.example`, in a thread of its own.

    The thread knows nothing of what its caller is in the middle of: gradients, hooks, autocast, a profiler.
    """
    with ThreadPoolExecutor(1) as thread:
        rounds = thread.submit(_rounds, product, trial, torch.get_num_threads()).result()
    return from_rounds(rounds)


def from_rounds(rounds: Rounds) -> dict[str, float]:
    """Seconds by kernel from those of rounds in which kernels took turns.

    `linear` needs the least that it ever needed, another kernel that times the median of its ratios to `linear` in the
    same round: a machine that is busy for a while slows both down.
    """
    least = min(rounds["linear"])
    ratios = {name: median(found) for name, found in _ratios(rounds).items()}
    return {"linear": least} | {name: least * ratio for name, ratio in ratios.items()}


def _ratios(rounds: Rounds) -> dict[str, list[float]]:
    others = {name: found for name, found in rounds.items() if name != "linear"}
    return {name: [a / b for a, b in zip(found, rounds["linear"], strict=True)] for name, found in others.items()}


def _is_clear(rounds: Rounds) -> bool:
    """True where more rounds would hardly change what is taken."""
    return all(min(found) > _CLEARLY or max(found) < 1 / _CLEARLY for found in _ratios(rounds).values())


def _rounds(product: Product, trial: Trial, n_threads: int) -> Rounds:
    torch.set_num_threads(n_threads)  # a thread begins with torch's own number
    clock = time.thread_time if n_threads == 1 else time.perf_counter
    kernels = trial(product.example)

    def seconds(multiply: Callable[[], object], repeats: int) -> float:
        started = clock()
        for _ in range(repeats):
            multiply()
        return max((clock() - started) / repeats, 1e-9)

    once = min(
        [seconds(multiply, 1) for multiply in [*kernels.values()] * 2][len(kernels) :]
    )  # the first is to warm up
    repeats = max(1, int(_SHORTEST / once))
    rounds: dict[str, list[float]] = {name: [] for name in kernels}
    for _ in range(_ROUNDS):
        for name, multiply in kernels.items():
            rounds[name].append(seconds(multiply, repeats))
        if len(rounds["linear"]) >= _LEAST_ROUNDS and _is_clear(rounds):
            break
    return rounds
