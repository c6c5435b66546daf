"""Progress while something runs: one line on a terminal, a line now and then where there is none.

There is one terminal, so there is one state: what runs, what was last measured of it, and where it would go on.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from alignbench.runtime import distributed

logger = logging.getLogger(__name__)

_FIRST_AFTER, _LATER_AFTER = 10.0, 60.0
"""Seconds without a line where there is no terminal: twice as long each time, from the first to the second."""


@dataclass(slots=True)
class _Shown:
    run: str = ""
    facts: dict[str, float] = field(default_factory=dict)
    saves: bool = False
    """True from the first step of a training that writes checkpoints."""
    checkpoint: int | None = None


_shown = _Shown()
_has_bar = True


def use_bar(wanted: bool) -> None:
    """Says whether there is a bar on a terminal; without one the log says it, if it says so much."""
    global _has_bar
    _has_bar = wanted


def run_begins(name: str) -> None:
    """Names the run that progress is of from now on; what was shown of the one before is forgotten."""
    global _shown
    _shown = _Shown(name)


def show(**facts: float | None) -> None:
    """Shows numbers beside the progress from now on, under their names; None is left as it was."""
    _shown.facts.update({name: value for name, value in facts.items() if value is not None})


def checkpoint_at(step: int | None) -> None:
    """Says that a kill would now go on from this step, 0 or None where training would begin anew."""
    _shown.saves, _shown.checkpoint = True, step or None


def after_interrupt() -> str:
    """Returns what the same command does if it is given again now, as a sentence."""
    run = _shown.run or "it"
    if not _shown.run:
        return "Interrupted; the same command goes on."
    if _shown.checkpoint is not None:
        return f"Interrupted; the same command goes on with {run} from its checkpoint at step {_shown.checkpoint}."
    return f"Interrupted; {run} had no checkpoint yet, so the same command begins it anew. Complete runs are kept."


@contextmanager
def progress_bar(description: str, total: int, done: int = 0) -> Iterator[Callable[[], None]]:
    """Shows the progress of something on standard error; yields a function that moves it on by one.

    Args:
        description: What is being done.
        total: Its steps.
        done: Those that an earlier process has done.

    Where standard error is no terminal, lines of the log say what has begun, how far it is and how long it took. Of
    several processes the first one shows it.
    """
    if distributed.rank() > 0:
        yield lambda: None
    elif _has_bar and sys.stderr.isatty():
        with _bar(description, total, done) as advance:
            yield advance
    else:
        started = time.perf_counter()
        logger.info("%s ...", description)
        yield _Lines(description, total, done, started).advance
        logger.info("%s: %.1f s", description, time.perf_counter() - started)


@contextmanager
def _bar(description: str, total: int, done: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    title = f"{_shown.run}: {description}" if _shown.run else description
    words = (TextColumn("{task.description}"), BarColumn(bar_width=12), MofNCompleteColumn(), TaskProgressColumn())
    with Progress(
        *words, TimeLeft(compact=True), TextColumn("{task.fields[more]}"), console=Console(stderr=True)
    ) as bar:
        task = bar.add_task(title, total=total, completed=done, more=_more())
        yield lambda: bar.update(task, advance=1, more=_more())


class _Lines:
    """Progress as lines of the log, ever more seldom."""

    def __init__(self, description: str, total: int, done: int, started: float) -> None:
        self.description, self.total, self.done, self.started = description, total, done, started
        self.n_here = 0
        self.pause = _FIRST_AFTER
        self.said = started

    def advance(self) -> None:
        """Counts one on, and says so where nothing was said for long enough."""
        self.n_here += 1
        now = time.perf_counter()
        if now - self.said < self.pause:
            return
        at = self.done + self.n_here
        left = (now - self.started) / self.n_here * (self.total - at)
        more = _more()
        logger.info(
            "%s: %d of %d (%.0f %%), %s left%s",
            self.description,
            at,
            self.total,
            100 * at / self.total,
            _duration(left),
            f"; {more}" if more else "",
            extra={"progress": {"done": at, "total": self.total, "seconds_left": round(left, 1), **_as_fields()}},
        )
        self.said, self.pause = now, min(2 * self.pause, _LATER_AFTER)


def _more() -> str:
    """What was last measured, and where a kill would go on."""
    words = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in _shown.facts.items()]
    if _shown.saves:
        at = _shown.checkpoint
        words.append("Ctrl-C: no checkpoint yet" if at is None else f"Ctrl-C: goes on from step {at}")
    return ", ".join(words)


def _as_fields() -> Mapping[str, float | int | str | None]:
    return {"run": _shown.run or None, **_shown.facts, "checkpoint": _shown.checkpoint}


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
