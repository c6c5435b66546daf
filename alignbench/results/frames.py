"""Results as pandas frames: the `load_...` functions of the package."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

from alignbench.records import Cost
from alignbench.results.layout import (
    COMPLETIONS_FILE,
    DIVERGENCE_FILE,
    EVENTS_FILE,
    TRAIN_COMPLETIONS_FILE,
    TRAIN_LOG_FILE,
)
from alignbench.results.parquet import readable
from alignbench.results.reader import Paths, SkippedRun, StoredRun, at_measurement, find_runs
from alignbench.results.schema import UnreadableError

if TYPE_CHECKING:
    import pandas as pd

_METRIC_COLUMNS = (
    *("metric", "scorer", "value", "ci_low", "ci_high", "direction"),
    *("n_scored", "n_unscored", "n_cut", "reason"),
)
_NUMBERS = {"value": "float64", "ci_low": "float64", "ci_high": "float64"}
_Part = TypeVar("_Part")


def _collect(paths: Paths, read: Callable[[StoredRun], Iterable[_Part]], measurement: int | None = None) -> list[_Part]:
    """Returns what `read` finds in every run, as one measurement has it; None is the latest.

    A warning names the directories that had to be skipped. UsageError where no run was measured so often.
    """
    runs, skipped = find_runs(paths)
    if measurement is not None:
        runs = at_measurement(runs, measurement)
    parts: list[_Part] = []
    for run in runs:
        try:
            parts.extend(read(run))
        except UnreadableError as error:
            skipped.append(SkippedRun(run.path, "corrupt", str(error)))
    if skipped:
        lines = "".join(f"\n  {run}" for run in skipped)
        warnings.warn(f"{len(skipped)} skipped:{lines}", UserWarning, stacklevel=3)
    return parts


def load_results(paths: Paths, measurement: int | None = None) -> pd.DataFrame:
    """Returns a row per run: identity, state, protocol, train_reward and costs.

    Costs: `wall_seconds` and so on are what the run is charged, its own work plus what it was built on; the parts
    are in `own_...` and `upstream_...`, and what measuring it took in `evaluation_...`. The protocol is that of a
    measurement as in `load_metrics`.
    """
    import pandas as pd

    return pd.DataFrame(_collect(paths, lambda run: [_result_row(run)], measurement))


def _result_row(run: StoredRun) -> dict[str, object]:
    status = run.status
    parts = {"": run.charged_cost, "own_": status.cost, "upstream_": status.upstream_cost}
    parts["evaluation_"] = status.evaluation_cost
    row: dict[str, object] = {key: getattr(status, key) for key in ("recipe", "method", "seed", "kind", "state")}
    row["protocol"] = ", ".join(evaluation.record.protocol for evaluation in run.evaluations) or None
    row["train_reward"] = status.train_reward
    for prefix, cost in parts.items():
        row |= {f"{prefix}{field.name}": getattr(cost, field.name) for field in fields(Cost)}
    row["upstream"] = ", ".join(f"{one.recipe}/seed{one.seed} ({one.role})" for one in status.upstream) or None
    row["hardware_class"] = run.environment.get("hardware_class")
    row |= {key: getattr(status, key) for key in ("run_hash", "alignbench", "started", "finished")}
    return row | {"path": str(run.path)}


def load_metrics(paths: Paths, measurement: int | None = None) -> pd.DataFrame:
    """Returns a row per run, protocol and metric, with its 95 % interval.

    `measurement` is which one to take of runs that were measured again, 1 being the run's own; None is the latest. Runs
    that were not measured so often have no rows.
    """
    import pandas as pd

    def rows(run: StoredRun) -> Iterator[dict[str, object]]:
        for evaluation in run.evaluations:
            for metric in evaluation.record.metrics:
                yield {**_keys(run), "protocol": evaluation.record.protocol, **metric.model_dump()}

    names = ["recipe", "method", "seed", "protocol", *_METRIC_COLUMNS]
    return pd.DataFrame(_collect(paths, rows, measurement), columns=names).astype(_NUMBERS)


def load_curves(paths: Paths) -> pd.DataFrame:
    """Returns a row per run, point along training and metric: `step`, `completions` of the budget spent, the value."""
    import pandas as pd

    def rows(run: StoredRun) -> Iterator[dict[str, object]]:
        for point in run.points:
            _ = point.prompt_values  # damaged values are found
            at = {"protocol": point.record.protocol, "step": point.step, "completions": point.completions}
            for metric in point.record.metrics:
                yield {**_keys(run), **at, **metric.model_dump()}

    names = ["recipe", "method", "seed", "protocol", "step", "completions", *_METRIC_COLUMNS]
    return pd.DataFrame(_collect(paths, rows), columns=names).astype(_NUMBERS)


def load_completions(paths: Paths, measurement: int | None = None) -> pd.DataFrame:
    """Returns a row per evaluated completion, of the measurement that `load_metrics` would take."""
    return _concatenated(_collect(paths, _frames_in(COMPLETIONS_FILE), measurement))


def load_divergence(paths: Paths, measurement: int | None = None) -> pd.DataFrame:
    """Returns a row per evaluated prompt: its token ids, and the completion that KL is measured on.

    Of the measurement that `load_metrics` would take.
    """
    return _concatenated(_collect(paths, _frames_in(DIVERGENCE_FILE), measurement))


def _frames_in(file_name: str) -> Callable[[StoredRun], Iterator[pd.DataFrame]]:
    """Returns what reads a parquet file of each of a run's evaluations; runs without that file have no rows."""
    import pandas as pd

    def frames(run: StoredRun) -> Iterator[pd.DataFrame]:
        for evaluation in run.evaluations:
            path = evaluation.path / file_name
            if path.exists():
                with readable(path):
                    yield _with_keys(pd.read_parquet(path), _keys(run) | {"protocol": evaluation.record.protocol})

    return frames


def load_train_log(paths: Paths) -> pd.DataFrame:
    """Returns a row per logged training step; methods log different columns."""
    return _load_lines(paths, TRAIN_LOG_FILE)


def load_train_completions(paths: Paths) -> pd.DataFrame:
    """Returns a row per completion that training has kept for reading: step, prompt, completion, reward, KL in nats."""
    return _load_lines(paths, TRAIN_COMPLETIONS_FILE)


def load_events(paths: Paths) -> pd.DataFrame:
    """Returns a row per piece of work that was booked: step, event, account, and what it cost."""
    return _load_lines(paths, EVENTS_FILE)


def _load_lines(paths: Paths, file_name: str) -> pd.DataFrame:
    import json

    import pandas as pd

    def frames(run: StoredRun) -> Iterator[pd.DataFrame]:
        path = run.path / file_name
        if path.exists():
            with readable(path):
                rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
                yield _with_keys(pd.DataFrame(rows), _keys(run))

    return _concatenated(_collect(paths, frames))


def _keys(run: StoredRun) -> dict[str, str | int]:
    return {"recipe": run.status.recipe, "method": run.status.method, "seed": run.status.seed}


def _with_keys(frame: pd.DataFrame, keys: dict[str, str | int]) -> pd.DataFrame:
    for place, (name, value) in enumerate(keys.items()):
        frame.insert(place, name, value)
    return frame


def _concatenated(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
