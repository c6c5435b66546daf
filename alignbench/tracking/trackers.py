"""What a run says to the trackers that its recipe names. One that fails is left out, and never stops the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

logger = logging.getLogger(__name__)

TrackerName = Literal["tensorboard", "trackio", "wandb", "mlflow"]
NAMES: tuple[TrackerName, ...] = get_args(TrackerName)
PROJECT = "alignbench"


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """Which run it is."""

    recipe: str
    method: str
    seed: int
    settings: Mapping[str, Any]
    """The resolved recipe."""
    folder: Path
    """Where a client keeps what it keeps on this machine: a folder for each of them within."""

    @property
    def label(self) -> str:
        """Its name in a tracker."""
        return f"{self.recipe}/seed{self.seed}"


class Tracker(Protocol):
    """One client, with a run begun in it."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Takes in some numbers of a step."""
        ...

    def finish(self) -> None:
        """Ends the run."""
        ...


class Trackers:
    """The trackers of a run.

    Names are the same in all of them and for all methods: those of the training log (`objective/reward`),
    `budget/completions`, `validation/METRIC` of the points along training, and `heldout/METRIC` of what was measured
    after it; METRIC is the name of a metric, with `/SCORER` where it has one.
    """

    def __init__(self, names: Sequence[TrackerName], run: TrackedRun) -> None:
        self._open: dict[str, Tracker] = {}
        for name in names:
            with self._left_out_where_it_fails(name):
                self._open[name] = import_module(f"alignbench.tracking.{name}").begin(run)
        self._step = 0

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Tells all of some numbers; what is no finite number is left out, and so is a step before the last one."""
        self._step = max(self._step, step)
        numbers = {
            key.replace("@", "/"): float(value)
            for key, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        for name, tracker in list(self._open.items()):
            with self._left_out_where_it_fails(name):
                tracker.log(self._step, numbers)

    def log_last(self, values: Mapping[str, Any]) -> None:
        """Tells all of numbers that belong to the end."""
        self.log(self._step, values)

    def finish(self) -> None:
        """Ends the run in all of them."""
        for name, tracker in list(self._open.items()):
            with self._left_out_where_it_fails(name):
                tracker.finish()
        self._open.clear()

    @contextmanager
    def _left_out_where_it_fails(self, name: str) -> Iterator[None]:
        try:
            yield
        except ModuleNotFoundError as error:
            self._open.pop(name, None)
            logger.warning("tracking: %s is left out: %s; pip install 'alignbench[%s]'", name, error, name)
        except Exception as error:  # a client raises whatever it likes
            self._open.pop(name, None)
            logger.warning(
                "tracking: %s failed and is left out from here on: %s: %s", name, type(error).__name__, error
            )
