"""Progress while something runs: one line on a terminal, a line now and then where there is none.

There is one terminal, so there is one state: what runs, what was last measured of it, and where it would go on.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from alignbench.runtime import distributed, stopping
from alignbench.runtime.durations import duration

logger = logging.getLogger(__name__)

_FIRST_AFTER, _LATER_AFTER = 10.0, 60.0
"""Seconds without a line where there is no terminal: twice as long each time, from the first to the second."""
_WRITTEN_EVERY = 2.0
"""Seconds from one writing of the file to the next, at the least."""


@dataclass(slots=True)
class _Shown:
    run: str = ""
    file: Path | None = None
    """Where other processes find it."""
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


def run_begins(name: str, file: Path | None = None) -> None:
    """Names the run that progress is of from now on; what was shown of the one before is forgotten.

    Into `file` it is written, every two seconds at the most, for `alignbench status`.
    """
    global _shown
    _shown = _Shown(name, file)


def run_ends() -> None:
    """Removes the file of the run's progress: it has none any more."""
    if _shown.file is not None:
        _shown.file.unlink(missing_ok=True)


def current_run() -> str:
    """Returns the name of the run that progress is of; empty where there is none."""
    return _shown.run


def show(**facts: float | None) -> None:
    """Shows numbers beside the progress from now on, under their names; None is left as it was."""
    _shown.facts.update({name: value for name, value in facts.items() if value is not None})


def checkpoint_at(step: int | None) -> None:
    """Says that a kill would now go on from this step, 0 or None where training would begin anew.

    Raises:
        KeyboardInterrupt: There is a checkpoint, and this process was asked to end at one.
    """
    _shown.saves, _shown.checkpoint = True, step or None
    if step:
        stopping.at_checkpoint()


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
        return
    steps = _Steps(description, total, done)
    if _has_bar and sys.stderr.isatty():
        with _bar(steps) as advance:
            yield advance
    else:
        logger.info("%s ...", description)
        yield _Lines(steps).advance
        logger.info("%s: %.1f s", description, time.perf_counter() - steps.started)


class _Steps:
    """How far something is."""

    def __init__(self, description: str, total: int, done: int) -> None:
        self.description, self.total, self.done = description, total, done
        self.started = time.perf_counter()
        self.n_here = 0
        self.seconds_left: float | None = None
        self._written = self.started - _WRITTEN_EVERY
        self._write(self.started)

    def advance(self) -> float:
        """Counts one on; returns the time."""
        now = time.perf_counter()
        self.done, self.n_here = self.done + 1, self.n_here + 1
        self.seconds_left = (now - self.started) / self.n_here * (self.total - self.done)
        self._write(now)
        return now

    def as_fields(self) -> dict[str, object]:
        """What a line of the log and the file hold."""
        left = None if self.seconds_left is None else round(self.seconds_left, 1)
        place = {"done": self.done, "total": self.total, "seconds_left": left}
        return {**place, "run": _shown.run or None, **_shown.facts, "checkpoint": _shown.checkpoint}

    def _write(self, now: float) -> None:
        if _shown.file is None or now - self._written < _WRITTEN_EVERY:
            return
        self._written = now
        about = {"doing": self.description, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        scratch = _shown.file.with_suffix(".new")
        with suppress(OSError):  # no run fails for want of its progress
            scratch.write_text(json.dumps({**about, **self.as_fields()}) + "\n", encoding="utf-8")
            os.replace(scratch, _shown.file)


@contextmanager
def _bar(steps: _Steps) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    title = f"{_shown.run}: {steps.description}" if _shown.run else steps.description
    words = (TextColumn("{task.description}"), BarColumn(bar_width=12), MofNCompleteColumn(), TaskProgressColumn())
    columns = (*words, TimeLeft(compact=True), TextColumn("{task.fields[more]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=steps.total, completed=steps.done, more=_more())

        def advance() -> None:
            steps.advance()
            bar.update(task, advance=1, more=_more())

        yield advance


class _Lines:
    """Progress as lines of the log, ever more seldom."""

    def __init__(self, steps: _Steps) -> None:
        self.steps, self.pause, self.said = steps, _FIRST_AFTER, steps.started

    def advance(self) -> None:
        """Counts one on, and says so where nothing was said for long enough."""
        steps, now = self.steps, self.steps.advance()
        if now - self.said < self.pause:
            return
        more = _more()
        logger.info(
            "%s: %d of %d (%.0f %%), %s left%s",
            steps.description,
            steps.done,
            steps.total,
            100 * steps.done / steps.total,
            duration(steps.seconds_left or 0.0),
            f"; {more}" if more else "",
            extra={"progress": steps.as_fields()},
        )
        self.said, self.pause = now, min(2 * self.pause, _LATER_AFTER)


def _more() -> str:
    """What was last measured, and where a kill would go on."""
    words = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in _shown.facts.items()]
    if _shown.saves:
        at = _shown.checkpoint
        words.append("Ctrl-C: no checkpoint yet" if at is None else f"Ctrl-C: goes on from step {at}")
    return ", ".join(words)
