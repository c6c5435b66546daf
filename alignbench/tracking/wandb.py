"""Weights & Biases: online where a key is there, else offline, in files to be sent by `wandb sync`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from alignbench.tracking.trackers import PROJECT, TrackedRun, Tracker


class WeightsAndBiases:
    """A run of wandb."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        folder = run.folder / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        key = os.environ.get("WANDB_API_KEY") or wandb.api.api_key
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.label,
            group=run.recipe,
            config={"method": run.method, **run.settings},
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE") or ("online" if key else "offline"),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs them."""
        self._run.log(dict(values), step=step)

    def finish(self) -> None:
        """Ends the run."""
        self._run.finish()


def begin(run: TrackedRun) -> Tracker:
    """Begins a run; ModuleNotFoundError where wandb is not installed."""
    return WeightsAndBiases(run)
