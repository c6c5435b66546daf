"""Reading results: runs as they lie in their directories, checked.

Without pandas; `frames` has the functions that give frames.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignbench.errors import ResultsError, UsageError
from alignbench.records import Cost, MetricKey, file_sha256, total
from alignbench.results.layout import (
    ARTIFACT,
    ENVIRONMENT_FILE,
    EVALUATIONS,
    METRICS_FILE,
    PROMPT_ID,
    PROMPT_VALUES_FILE,
    PROMPTS_FILE,
    RECIPE_FILE,
    STATUS_FILE,
)
from alignbench.results.parquet import floats, means_of_measured, parquet_file, readable
from alignbench.results.schema import (
    EvaluationFile,
    NewerSchemaError,
    PromptsFile,
    RunStatus,
    StoredMetric,
    StoredRecipe,
    UnreadableError,
    parse_record,
    read_record,
    read_text,
)

_TOLERANCE = 1e-6
"""Relative, between a metric and the mean of its column: far above rounding, far below any interval."""

Paths = str | Path | Sequence[str | Path]
_RUN = re.compile(r"seed\d+|\.seed\d+\.partial")


@lru_cache(maxsize=8)
def _prompts_in(text: str) -> PromptsFile:
    """Returns what the text of prompts.json says: most runs of a table share their data, and have one object."""
    return parse_record(text, Path(PROMPTS_FILE), PromptsFile)


@lru_cache(maxsize=64)
def _once(ids: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the first of equal tuples: the runs of a table have the same prompts."""
    return ids


@dataclass(frozen=True)
class StoredEvaluation:
    """One protocol of one run."""

    path: Path
    record: EvaluationFile

    @cached_property
    def metrics(self) -> Mapping[MetricKey, StoredMetric]:
        """The metrics, in the order of the file."""
        return {metric.key: metric for metric in self.record.metrics}

    @cached_property
    def prompt_values(self) -> tuple[tuple[str, ...], dict[str, NDArray[np.float64]]]:
        """Prompt ids, and per column, named by its `MetricKey`, a value per prompt, NaN where unmeasured.

        UnreadableError where they are missing, damaged, or not what the metrics are the means of.
        """
        path = self.path / PROMPT_VALUES_FILE
        if not path.exists():
            if self.record.n_prompts:
                raise UnreadableError(f"no {path.name}")
            return (), {}
        with readable(path):
            table = parquet_file(path).read(use_threads=False)
            ids = _once(tuple(map(str, table.column(PROMPT_ID).to_pylist())))
            columns = {name: floats(table.column(name)) for name in table.column_names if name != PROMPT_ID}
        if any(column.ndim > 1 for column in columns.values()):
            raise UnreadableError(f"{path.name}: lists where numbers belong")
        if len(set(ids)) != len(ids):
            raise UnreadableError(f"{path.name}: a prompt id occurs twice")
        if len(ids) != self.record.n_prompts:
            raise UnreadableError(f"{path.name}: rows: got {len(ids)}, expected {self.record.n_prompts}, the n_prompts")
        values = np.array(list(columns.values())).reshape(len(columns), len(ids))
        if (infinite := np.isinf(values).any(axis=1)).any():
            raise UnreadableError(f"{path.name}: {list(columns)[infinite.argmax()]}: an infinite value")
        self._require_means(dict(zip(columns, means_of_measured(values), strict=True)))
        return ids, dict(zip(columns, values, strict=True))

    def _require_means(self, means: Mapping[str, float]) -> None:
        """UnreadableError where a stored metric is not the mean of its column."""
        for metric in self.record.metrics:
            mean = means.get(str(metric.key))
            if mean is None or metric.value is None:
                continue
            is_log = self.record.traits_of(metric.metric).scale == "log"
            if is_log:
                # A difference of logarithms is a relative one, and the exponential may be out of all range.
                is_mean = metric.value > 0 and abs(math.log(metric.value) - mean) <= _TOLERANCE
            else:
                is_mean = math.isclose(metric.value, mean, rel_tol=_TOLERANCE, abs_tol=1e-12)
            if not is_mean:
                kind = "exponential of the mean" if is_log else "mean"
                raise UnreadableError(
                    f"{METRICS_FILE}: {metric.key}: {metric.value:.6g} is not the {kind} of its column in "
                    f"{PROMPT_VALUES_FILE}"
                )


@dataclass(frozen=True)
class StoredPoint(StoredEvaluation):
    """One evaluation along training."""

    step: int
    completions: int
    """Of the budget, spent when it was made."""


@dataclass(frozen=True)
class StoredRun:
    """A complete run on disk."""

    path: Path
    status: RunStatus
    evaluations: tuple[StoredEvaluation, ...]
    """Those of the latest measurement, by protocol."""
    others: tuple[StoredEvaluation, ...] = ()
    """Those of the other measurements, which a finished run keeps when it is measured again."""

    @property
    def n_measurements(self) -> int:
        """How often it was measured: as a run, and again since then."""
        return max((one.record.number for one in (*self.evaluations, *self.others)), default=1)

    def at_measurement(self, number: int) -> StoredRun:
        """Returns the run with the evaluations of one measurement; of a number that it lacks it has none."""
        chosen, others = _by_number((*self.evaluations, *self.others), number)
        return replace(self, evaluations=chosen, others=others)

    @cached_property
    def points(self) -> tuple[StoredPoint, ...]:
        """The evaluations along training, by step."""
        return read_points(self.path)

    @property
    def label(self) -> str:
        """How messages call the run."""
        return f"{self.status.recipe}/seed{self.status.seed}"

    @property
    def artifact(self) -> Path:
        """Where the trained policy or reward model lies."""
        return self.path / ARTIFACT

    @property
    def charged_cost(self) -> Cost:
        """Own training plus what upstream runs and pairs cost."""
        return total((self.status.cost, self.status.upstream_cost))

    @property
    def pieces(self) -> dict[str, Cost]:
        """What whoever builds on the run is charged; see `RunStatus.upstream_pieces`."""
        return {f"run {self.status.run_hash}": self.status.cost, **self.status.upstream_pieces}

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """environment.json."""
        return _mapping(self.path / ENVIRONMENT_FILE, json.loads)

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        """The resolved recipe."""
        return read_recipe(self.path, self.status.resolved)

    @cached_property
    def prompts(self) -> PromptsFile | None:
        """prompts.json; None in runs from before it was written."""
        path = self.path / PROMPTS_FILE
        try:
            return _prompts_in(read_text(path)) if path.exists() else None
        except NewerSchemaError as error:
            raise NewerSchemaError(f"{self.path}{os.sep}{error}") from None

    def verify(self) -> None:
        """Reads every file that tables are made from; UnreadableError or NewerSchemaError where one is not sound."""
        _ = self.environment, self.recipe, self.prompts
        for evaluation in (*self.evaluations, *self.others):
            _ = evaluation.prompt_values


@dataclass(frozen=True, slots=True)
class SkippedRun:
    """A directory that is no complete run."""

    path: Path
    state: str
    """`missing`, `unfinished`, `incomplete`, `corrupt` or `newer`."""
    reason: str
    status: RunStatus | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.state}, {self.reason}"


def _mapping(path: Path, parse: Callable[[str], Any], refused: type[Exception] = ValueError) -> Mapping[str, Any]:
    """Reads a file that holds a mapping; UnreadableError where it is missing, `refused` by `parse`, or holds none."""
    errors = (OSError, ValueError, RecursionError, refused)
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnreadableError(f"no {path.name}") from None
    except errors as error:
        first = str(error).partition("\n")[0]
        raise UnreadableError(f"{path.name} cannot be read: {type(error).__name__}: {first}") from None
    if not isinstance(content, Mapping) or not content:
        raise UnreadableError(f"{path.name}: got {'nothing' if not content else type(content).__name__}, expected keys")
    return content


def read_recipe(run: Path, known: StoredRecipe | None = None) -> Mapping[str, Any]:
    """Returns the resolved recipe of a run, complete or not; UnreadableError where it is missing or damaged.

    `known` is what the run's status has of it: where that is of this very file, the file is not read as YAML.
    """
    path = run / RECIPE_FILE
    with suppress(OSError):
        if known is not None and known.sha256 == file_sha256(path):
            return known.settings
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    return _mapping(path, YAML(typ="safe", pure=True).load, YAMLError)


def recipe_for_status(run: Path, settings: Mapping[str, Any] | None = None) -> StoredRecipe | None:
    """Returns what a status has of the resolved recipe beside it; None where that cannot be read.

    `settings` is what it says, where that is known: it is not read then.
    """
    with suppress(UnreadableError):
        settings = dict(settings or read_recipe(run))
        return StoredRecipe(sha256=file_sha256(run / RECIPE_FILE), settings=settings)
    return None


def read_run(path: Path) -> StoredRun:
    """Reads a complete run; ResultsError where it is damaged or a newer release wrote it."""
    try:
        return _read_run(path)
    except UnreadableError as error:
        raise ResultsError(f"{path}: {error}; run its recipe again with --force") from None


def _by_number(
    evaluations: Sequence[StoredEvaluation], number: int
) -> tuple[tuple[StoredEvaluation, ...], tuple[StoredEvaluation, ...]]:
    """The evaluations of one measurement, and the others."""
    chosen = tuple(one for one in evaluations if one.record.number == number)
    return chosen, tuple(one for one in evaluations if one.record.number != number)


def _read_run(path: Path) -> StoredRun:
    status = read_record(path / STATUS_FILE, RunStatus)
    evaluations = tuple(
        StoredEvaluation(file.parent, read_record(file, EvaluationFile))
        for file in sorted((path / EVALUATIONS).glob(f"*/{METRICS_FILE}"))
    )
    latest = max((one.record.number for one in evaluations), default=1)
    run = StoredRun(path, status, *_by_number(evaluations, latest))
    if status.state == "complete":
        run.verify()
    return run


def read_points(run: Path) -> tuple[StoredPoint, ...]:
    """Returns the evaluations along training of a run, by step; those that a kill has torn are left out."""
    points = []
    for file in (run / EVALUATIONS).glob(f"*/step*/{METRICS_FILE}"):
        with suppress(UnreadableError):
            record = read_record(file, EvaluationFile)
            if record.step is not None and record.completions is not None:
                points.append(StoredPoint(file.parent, record, record.step, record.completions))
    return tuple(sorted(points, key=lambda point: point.step))


def scan_runs(paths: Paths) -> tuple[list[StoredRun], list[SkippedRun]]:
    """Returns the complete runs below the paths, by recipe and seed, and the directories that are none.

    Args:
        paths: a results root, a recipe's directory, a run's directory, or several of them.
    """
    places: dict[Path, Path] = {}
    for root in _as_list(paths):
        for path in _run_directories(root):
            places.setdefault(path.resolve(), path)
    # One after the other: what takes time is Python's own, which threads only hand to and fro.
    found = [_read_or_skip(path) for path in places.values()]
    runs = [run for run in found if isinstance(run, StoredRun)]
    skipped = [run for run in found if isinstance(run, SkippedRun)]
    return sorted(runs, key=lambda run: (run.status.recipe, run.status.seed)), skipped


def find_runs(paths: Paths) -> tuple[list[StoredRun], list[SkippedRun]]:
    """Does what `scan_runs` does; ResultsError where there is no complete run."""
    runs, skipped = scan_runs(paths)
    if not runs:
        looked = ", ".join(map(str, _as_list(paths))) or "no path at all"
        details = "".join(f"\n  {run}" for run in skipped)
        raise ResultsError(f"no complete run in {looked}; `alignbench run RECIPE` makes one{details}")
    return runs, skipped


def at_measurement(runs: Sequence[StoredRun], number: int) -> list[StoredRun]:
    """Returns runs with the evaluations of one measurement; UsageError where none of them was measured so often."""
    most = max((run.n_measurements for run in runs), default=number)
    if number > most:
        raise UsageError(f"measurement: got {number}, expected at most {most}, the latest of these runs")
    return [run.at_measurement(number) for run in runs]


def _as_list(paths: Paths) -> list[Path]:
    return [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]


def _run_directories(root: Path) -> Iterator[Path]:
    """Yields the run directories at or below a path; a path that leads to none is yielded as it is."""
    if (root / STATUS_FILE).exists() or _RUN.fullmatch(root.name) or not root.is_dir():
        yield root
        return
    for folder in (root, *sorted(child for child in root.iterdir() if child.is_dir())):
        yield from sorted(child for child in folder.iterdir() if child.is_dir() and _RUN.fullmatch(child.name))


def _read_or_skip(path: Path) -> StoredRun | SkippedRun:
    if not path.is_dir():
        return SkippedRun(path, "missing", "a file, not a directory" if path.exists() else "no such directory")
    is_partial = path.name.startswith(".")
    try:
        run = _read_run(path)
    except UnreadableError as error:
        return SkippedRun(path, "unfinished" if is_partial else "corrupt", str(error))
    except NewerSchemaError as error:
        return SkippedRun(path, "newer", str(error).removeprefix(str(path)).lstrip("/\\"))
    if is_partial or run.status.state != "complete":
        return SkippedRun(path, "unfinished", _why_unfinished(run.status), run.status)
    return run


def _why_unfinished(status: RunStatus) -> str:
    if status.state == "failed" and not status.is_interrupted:
        return f"failed: {status.error}" if status.error else "failed, and did not say why"
    return "run its recipe again and it goes on"
