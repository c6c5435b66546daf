"""Trackio: a local database, shown by `trackio show`; `TRACKIO_DIR` says where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignbench.tracking.trackers import PROJECT, TrackedRun, Tracker


class Trackio:
    """A run of trackio."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._run: Any = trackio.init(
            project=PROJECT,
            name=run.label,
            group=run.recipe,
            config={"method": run.method, **run.settings},
            embed=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs them."""
        self._run.log(dict(values), step=step)

    def finish(self) -> None:
        """Ends the run."""
        self._run.finish()


def begin(run: TrackedRun) -> Tracker:
    """Begins a run; ModuleNotFoundError where trackio is not installed."""
    return Trackio(run)
