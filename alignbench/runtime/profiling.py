"""A torch trace of one training step, and the share of each stage in it.

The profiler watches and changes nothing: a profiled run gives the same numbers. It takes time of its own, though, so
the seconds that a profiled run logs are no measure of speed.
"""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from alignbench.runtime.clock import STAGE

if TYPE_CHECKING:
    import torch

TRACE_FILE = "trace.json.gz"
_N_OPERATORS = 10
_PLACES = ("host_name", "traceName")
"""What the profiler writes about the machine, and nobody needs."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Where the time of a training step went."""

    seconds: float
    """Of the step, by the clock on the wall."""
    stages: Mapping[str, float]
    """By name, in the order of first appearance, the share of the time; with `other` they sum to 1."""
    operators: Mapping[str, float]
    """The largest operators, without what they call, as a share of the same time; on a GPU of its busy time."""

    def __str__(self) -> str:
        lines = []
        for title, shares in (("stage", self.stages), ("operator", self.operators)):
            lines += [f"{title:<52}share", *(f"  {name:<49} {share:>5.1%}" for name, share in shares.items())]
        return "\n".join(lines)


class Profile:
    """Traces the second training step of what runs within it: the first allocates and loads what later ones have.

    What is called between steps, to log or to evaluate, is no part of a step.
    """

    def __init__(self, directory: Path, device: torch.device) -> None:
        """Prepares; a trace that lies in the directory is replaced."""
        self.shares: Shares | None = None
        """None where there was no second step."""
        self.step = 0
        """The number of the step that was traced."""
        self._directory, self._device = directory, device
        self._profiler: Any = None
        self._after = 0
        self._started = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def between_steps(self, call: Callable[..., None]) -> Callable[..., None]:
        """The same call, of which the first argument is the number of the step that has ended."""

        def called(step: int, *args: Any, **kwargs: Any) -> None:
            seconds = time.perf_counter() - self._started
            profiler = self._stop()
            if profiler is not None and step != self._after:
                self._keep(profiler, step, seconds)
            call(step, *args, **kwargs)
            if self.shares is None:
                self._start(step)

        return called

    def _start(self, step: int) -> None:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._after, self._profiler = step, profile(activities=activities)
        self._profiler.start()
        self._started = time.perf_counter()

    def _stop(self) -> Any:
        profiler, self._profiler = self._profiler, None
        if profiler is not None:
            profiler.stop()
        return profiler

    def _keep(self, profiler: Any, step: int, seconds: float) -> None:
        self.step, self.shares = step, shares_of(profiler, seconds, on_gpu=self._device.type == "cuda")
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / TRACE_FILE
        profiler.export_chrome_trace(str(path))
        with gzip.open(path, "rt", encoding="utf-8") as file:
            trace = json.load(file)
        with gzip.open(path, "wt", encoding="utf-8") as file:
            json.dump({key: value for key, value in trace.items() if key not in _PLACES}, file)

    def __str__(self) -> str:
        if self.shares is None:
            return "nothing was profiled: that takes two training steps, one of them to warm up"
        return (
            f"profile of step {self.step}, {self.shares.seconds:.3f} s with the profiler's own time; "
            f"{self._directory.name}/{TRACE_FILE} is its trace, for Perfetto or chrome://tracing\n{self.shares}"
        )


def shares_of(profiler: Any, seconds: float, *, on_gpu: bool) -> Shares:
    """Returns what stages and operators took of a step of `seconds`."""
    from torch.profiler import DeviceType

    stages, operators = Counter[str](), Counter[str]()
    for event in profiler.events():
        if not event.name.startswith(STAGE):
            operators[event.name] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
        elif event.device_type == DeviceType.CPU:
            stages[event.name.removeprefix(STAGE)] += event.time_range.elapsed_us()
    shares = {name: value / 1e6 / seconds for name, value in stages.items()}
    shares["other"] = 1 - sum(shares.values())
    busy = sum(operators.values()) if on_gpu else 1e6 * seconds
    largest = {name: value / busy for name, value in operators.most_common(_N_OPERATORS) if value}
    return Shares(seconds, shares, largest)
