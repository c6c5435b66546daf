"""What carries out runs, here or elsewhere, and what there is to carry out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, Self

from alignbench.errors import AlignbenchError
from alignbench.pipeline.plan import Key, Planned
from alignbench.results.schema import TuningFile


@dataclass(frozen=True)
class Order:
    """Runs to carry out, each after those that it builds on."""

    planned: Mapping[Key, Planned]
    results: Path
    """The results directory, which all processes see under this path."""
    force: bool = False
    """Run again what is complete, but for `fresh`, and replace runs of other recipes under the same names."""
    profile: bool = False
    """Trace a training step of every run."""
    tuning: Mapping[str, TuningFile] = field(default_factory=dict)
    """By recipe name, the sweep that selected its settings, to be charged."""
    fresh: Collection[Key] = ()
    """Runs that the same command ran before."""

    def forces(self, key: Key) -> bool:
        """True where a run is run again though it is complete."""
        return self.force and key not in self.fresh


class Ended(NamedTuple):
    """What became of a run."""

    state: Literal["done", "kept", "failed", "held", "stopped"]
    """`held`: another process has it. `stopped`: it was asked to end, and left a checkpoint, if it had one."""
    path: Path | None = None
    """The run; of a failed one what its training goes on from, if there is anything."""
    error: AlignbenchError | None = None
    may_retry: bool = False
    """True where the same again may end better: a process that died, an error that nobody has foreseen."""


class Executor(Protocol):
    """Carries out the runs of an order. A context, so that nothing is left of it."""

    def has_room(self) -> bool:
        """True where another run can be submitted now."""
        ...

    def submit(self, key: Key) -> None:
        """Begins a run whose upstream runs are complete."""
        ...

    def wait(self, seconds: float) -> Sequence[tuple[Key, Ended]]:
        """Returns what has ended, after so many seconds at the most."""
        ...

    def stop(self, *, at_once: bool) -> None:
        """Asks everything that is under way to end: at its next checkpoint, or at once."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
