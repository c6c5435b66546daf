"""MLflow: the server that `MLFLOW_TRACKING_URI` names, else a database beside the results."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from alignbench.tracking.trackers import PROJECT, TrackedRun, Tracker


class MLflow:
    """A run of mlflow."""

    def __init__(self, run: TrackedRun) -> None:
        from mlflow.tracking import MlflowClient

        place, files = os.environ.get("MLFLOW_TRACKING_URI"), None
        if not place:
            folder = (run.folder / "mlflow").resolve()
            folder.mkdir(parents=True, exist_ok=True)
            place, files = f"sqlite:///{folder / 'mlflow.db'}", (folder / "files").as_uri()
        self._client: Any = MlflowClient(tracking_uri=place)
        known = self._client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known else self._client.create_experiment(PROJECT, files)
        begun = self._client.create_run(
            experiment, run_name=run.label, tags={"method": run.method, "recipe": run.recipe}
        )
        self._id = begun.info.run_id
        self._client.log_dict(self._id, dict(run.settings), "recipe.json")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs them at once."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def finish(self) -> None:
        """Ends the run."""
        self._client.set_terminated(self._id)


def begin(run: TrackedRun) -> Tracker:
    """Begins a run; ModuleNotFoundError where mlflow is not installed."""
    return MLflow(run)
