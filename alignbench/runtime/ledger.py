"""What a run spends, piece by piece: summed up, and written down as events.

A piece of work is booked once, here, and lands in both: the sums of `status.json` are the sums of `events.jsonl`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from alignbench.records import Cost

Account = Literal["cost", "evaluation_cost"]
"""Which cost of `status.json` a piece belongs to; what was spent upstream is charged by `RunDirectory.charge`."""
Write = Callable[[int | None, Mapping[str, object]], None]


class Ledger:
    """Sums, and the events that they are the sums of."""

    def __init__(self, write: Write | None = None) -> None:
        """Starts at 0; `write` gets every event with its step, None keeps the sums alone."""
        self.cost = Cost()
        self.evaluation_cost = Cost()
        self._write = write

    def book(self, step: int | None, event: str, amounts: Cost, account: Account = "cost") -> None:
        """Adds a piece of work to its account and writes it down.

        Args:
            step: The training step that it was part of; None for what belongs to no step and comes after the last.
                A resumed run replaces the rows of the steps that it runs again.
            event: What was done, in a word.
            amounts: What it took.
            account: Where it is charged.
        """
        getattr(self, account).charge(amounts)
        if self._write is not None:
            self._write(step, {"event": event, "account": account, **amounts.amounts()})

    def restore(self, counts: Mapping[str, int | float]) -> None:
        """Sets the counts of training to those of a checkpoint, whose events are written down already."""
        for name, count in counts.items():
            setattr(self.cost, name, count)


@contextmanager
def spending(*sources: object) -> Iterator[Cost]:
    """Yields a cost that after the block has what the sources spent within it.

    A source is whatever has a `spent`, a `Cost` that grows (language models and classifiers do), or a method of it;
    anything else is free: a Python function has no FLOPs that could be known.
    """
    owners = [getattr(source, "__self__", source) for source in sources]
    meters = {id(owner): owner for owner in owners if hasattr(owner, "spent")}
    before = {key: replace(owner.spent) for key, owner in meters.items()}
    total = Cost()
    yield total
    for key, owner in meters.items():
        total.charge(owner.spent.since(before[key]))
