"""One run after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from alignbench.pipeline.executors.base import Ended
from alignbench.pipeline.plan import Key


class Here:
    """Carries out a run when it is submitted; see `base.Executor`."""

    def __init__(self, carry_out: Callable[[Key], Ended]) -> None:
        self._carry_out = carry_out
        self._ended: list[tuple[Key, Ended]] = []

    def has_room(self) -> bool:
        """True once the one before was asked for."""
        return not self._ended

    def submit(self, key: Key) -> None:
        """Carries out a run."""
        self._ended = [(key, self._carry_out(key))]

    def wait(self, seconds: float) -> Sequence[tuple[Key, Ended]]:
        """Returns what became of it."""
        ended, self._ended = self._ended, []
        return ended

    def stop(self, *, at_once: bool) -> None:
        """Nothing is under way when this process can be asked."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to leave."""
