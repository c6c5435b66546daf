"""Tuning: as many trials for every method, judged on validation prompts by one criterion, and paid for by who is tuned.

    load(["my_suite.yaml"]) --> trials of each recipe --> select --> the selected settings run as ordinary recipes

A trial is a run like any other, in `results/tuning`, with the sweep's seed. The selected settings are then run under
the recipe's own name for every seed of the suite and evaluated on held-out prompts, once. docs/tuning.md has the rules.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from alignbench.comparison.comparability import find_mismatches
from alignbench.errors import AlignbenchError, DataError, ModelError, ResultsError, UsageError
from alignbench.pipeline import execute, input_checks
from alignbench.pipeline.execute import Engine
from alignbench.pipeline.plan import Key, Outcome, Planned, describe_run, folder, plan, run_path
from alignbench.recipe.loading import LoadedRecipe
from alignbench.recipe.sweeps import CriterionSettings, Point
from alignbench.records import Cost, Direction, fingerprint
from alignbench.results import layout, reader
from alignbench.results.files import write_record
from alignbench.results.schema import RunStatus, Trial, TuningFile, UnreadableError, read_record
from alignbench.results.writer import RunDirectory
from alignbench.runtime import distributed

logger = logging.getLogger(__name__)

_NOT_TRIED = (UsageError, DataError, ModelError)
"""Errors that say nothing about a setting: what raises them must be mended, and the trial run."""


def run(
    recipes: Sequence[LoadedRecipe],
    results: str | Path = "results",
    *,
    force: bool = False,
    profile: bool = False,
    engine: Engine | None = None,
    retries: int = 1,
) -> list[Outcome]:
    """Trains and evaluates recipes, after tuning those that have a sweep; what is complete is kept.

    A recipe that cannot be tuned fails, with what builds on it; the others go on. `engine` and `retries` are those of
    `execute.run`.

    Raises:
        UsageError: Several processes were started, and there is something to tune: trials run in one.
        InputsError: Files that the recipes name cannot be used; nothing was run.
    """
    results = Path(results)
    distributed.join()
    if distributed.world_size() > 1 and any(recipe.sweep for recipe in recipes):
        raise UsageError("a suite with a sweep is tuned in one process: run it without torchrun or accelerate launch")
    if distributed.world_size() > 1 and engine is not None:
        raise UsageError("--workers and --executor start processes of their own: leave torchrun out, or them")
    input_checks.check_inputs(recipe for recipe in recipes if force or not _is_complete(recipe, results))
    session = _Session(results, force, engine, retries)
    for recipe in _swept(recipes):
        session.tune(recipe)
    ready = []
    for recipe in recipes:
        error = session.failed.get(recipe.name) or session.lacks(recipe)
        if error is not None:
            key = recipe.name, recipe.recipe.seed
            session.outcomes[key] = Outcome(*key, "failed", error=error)
        else:
            ready.append(session.settled(recipe))
    session.run(ready, profile=profile)
    return list(session.outcomes.values())


def _is_complete(loaded: LoadedRecipe, results: Path) -> bool:
    """True where there is nothing to do for a recipe, so that its files may be gone; False also where that is open."""
    if loaded.sweep is not None:
        return layout.tuning_path(results, loaded.name).exists()
    try:
        planned = plan([loaded])[-1]
        return RunDirectory.foresee(folder(planned.recipe, results), *planned.key, planned.run_hash) == "skip"
    except AlignbenchError:
        return False


def describe(recipes: Sequence[LoadedRecipe], results: Path, *, force: bool) -> list[str]:
    """Returns a line on each run to come, without doing anything; what trials are to decide is said to be open."""
    session, lines = _Session(results, force), list[str]()
    open_names: set[str] = set()
    for recipe in _swept(recipes):
        assert recipe.sweep is not None
        if open_names.intersection(recipe.upstream_names()):
            lines.append(f"{recipe.name}: {recipe.sweep.settings.trials} trials, once what it builds on is tuned")
            open_names.add(recipe.name)
            continue
        recipe = session.settled(recipe)
        trials, planned = _plan(recipe)
        record = session.finished(recipe, trials, planned)
        if record is not None:
            session.accept(record)
            continue
        lines += [describe_run(one, results, force=force) for one in planned.values()]
        open_names.add(recipe.name)
    is_open = [bool(open_names.intersection({recipe.name, *recipe.upstream_names()})) for recipe in recipes]
    ready = [session.settled(recipe) for recipe, undecided in zip(recipes, is_open, strict=True) if not undecided]
    lines += [describe_run(one, results, force=force) for one in plan(ready)]
    lines += [
        f"{recipe.name}, seed {recipe.recipe.seed}: {recipe.recipe.method_name}, when the trials above have decided"
        for recipe, undecided in zip(recipes, is_open, strict=True)
        if undecided
    ]
    return list(dict.fromkeys(lines))


class _Session:
    """What one command has run and decided so far."""

    def __init__(self, results: Path, force: bool, engine: Engine | None = None, retries: int = 1) -> None:
        self.results, self.force = results, force
        self.engine, self.retries = engine, retries
        self.outcomes: dict[Key, Outcome] = {}
        self.records: dict[str, TuningFile] = {}
        """Finished sweeps by recipe."""
        self.failed: dict[str, AlignbenchError] = {}
        """Why a recipe has no settings."""

    def run(self, recipes: Sequence[LoadedRecipe], *, profile: bool = False) -> dict[Key, Outcome]:
        """Runs recipes; what this command has run before it does not run again."""
        ran = frozenset(self.outcomes)
        outcomes = execute.run(
            recipes, self.results, force=self.force, profile=profile, tuning=self.records, fresh=ran,
            engine=self.engine, retries=self.retries,
        )  # fmt: skip
        found = {(one.recipe, one.seed): one for one in outcomes}
        self.outcomes |= {key: one for key, one in found.items() if one.state != "kept" or key not in self.outcomes}
        return found

    def tune(self, recipe: LoadedRecipe) -> None:
        """Runs the trials of a recipe and selects, unless that was done before with the same settings."""
        error = self.lacks(recipe)
        if error is None:
            recipe = self.settled(recipe)
            trials, planned = _plan(recipe)
            try:
                record = self.finished(recipe, trials, planned)
                self.accept(record or self._try_out(recipe, trials, planned))
            except AlignbenchError as failure:
                error = AlignbenchError(f"not tuned: {failure}")
        if error is not None:
            self.failed[recipe.name] = error

    def finished(
        self, recipe: LoadedRecipe, trials: Mapping[str, Point], planned: Mapping[str, Planned]
    ) -> TuningFile | None:
        """Returns the record of the same sweep, finished before; RunExistsError where a trial read other inputs."""
        try:
            record = read_record(layout.tuning_path(self.results, recipe.name), TuningFile)
        except UnreadableError:
            return None
        if self.force or record.identity != _identity(recipe, trials, planned):
            return None
        for one in planned.values():
            describe_run(one, self.results, force=False)
        return record

    def accept(self, record: TuningFile) -> None:
        """Takes over the settings that a sweep has selected."""
        self.records[record.recipe] = record
        logger.info("%s", _sentence(record))

    def settled(self, recipe: LoadedRecipe) -> LoadedRecipe:
        """Returns the recipe as it is to run, with what sweeps have selected so far."""
        return recipe.tuned({name: record.trials[record.selected].settings for name, record in self.records.items()})

    def lacks(self, recipe: LoadedRecipe) -> AlignbenchError | None:
        """Returns an error where a recipe builds on one without settings."""
        missing = [name for name in recipe.upstream_names() if name in self.failed]
        return AlignbenchError(f"not run: {missing[0]}, which it builds on, was not tuned") if missing else None

    def _try_out(self, recipe: LoadedRecipe, trials: Mapping[str, Point], planned: Mapping[str, Planned]) -> TuningFile:
        """Runs the trials, selects, and writes the record of it."""
        assert recipe.sweep is not None
        criterion = recipe.sweep.settings.criterion
        outcomes = self.run([recipe.trial(number, point) for number, point in enumerate(trials.values())])
        for (name, _), outcome in outcomes.items():
            if outcome.state == "failed" and (name not in trials or isinstance(outcome.error, _NOT_TRIED)):
                raise AlignbenchError(f"{name}: {outcome.error}")
        found: list[Trial] = []
        pieces: dict[str, Cost] = {}
        for name, point in trials.items():
            trial, spent = self._look(planned[name], outcomes[planned[name].key], point, criterion)
            found.append(trial)
            pieces |= spent
        self._require_alike([planned[one.recipe] for one in found if one.reason is None])
        record = TuningFile(
            suite=recipe.sweep.suite,
            recipe=recipe.name,
            identity=_identity(recipe, trials, planned),
            criterion=criterion.model_dump(mode="json"),
            direction=criterion.direction,
            n_points=len(recipe.sweep.points),
            trials=tuple(found),
            selected=select(found, criterion.direction),
            pieces=pieces,
        )
        write_record(layout.tuning_path(self.results, recipe.name), record)
        for key, outcome in outcomes.items():
            if outcome.state == "failed":
                self.outcomes[key] = dataclasses.replace(outcome, state="spent")
        return record

    def _look(
        self, planned: Planned, outcome: Outcome, point: Point, criterion: CriterionSettings
    ) -> tuple[Trial, dict[str, Cost]]:
        """Returns what a trial measured, or why it failed, and what it is charged."""
        (name, seed), reason = planned.key, f"it failed: {outcome.error}"
        about: dict[str, object] = {"recipe": name, "seed": seed, "run_hash": planned.run_hash, "settings": point}
        if outcome.state != "failed":
            run = reader.read_run(run_path(planned.recipe, self.results))
            about["run_hash"] = run.status.run_hash  # that of its time, where the trial ran before
            return Trial.model_validate(about | judge(run, criterion)), _spent(run.status)
        partial = layout.partial_path(folder(planned.recipe, self.results), name, seed)
        try:
            status = read_record(partial / layout.STATUS_FILE, RunStatus)
        except UnreadableError:  # it failed before its first step, and left nothing
            return Trial.model_validate({**about, "value": None, "reason": reason}), {}
        return Trial.model_validate({**about, "value": None, "reason": reason}), _spent(status)

    def _require_alike(self, trials: Sequence[Planned]) -> None:
        """ResultsError where trials were not measured alike, on the same validation prompts above all."""
        runs = [reader.read_run(run_path(one.recipe, self.results)) for one in trials]
        mismatches = find_mismatches([(run, _on_validation(run)) for run in runs])
        if mismatches:
            lines = "; ".join(map(str, mismatches))
            raise ResultsError(f"its trials were not measured alike, so they cannot be compared: {lines}")


def judge(run: reader.StoredRun, criterion: CriterionSettings) -> dict[str, object]:
    """Returns the fields of a `Trial` that a run's evaluation decides: value, measured and reason.

    Raises:
        ResultsError: The evaluation is not one of validation prompts.
    """
    evaluation = _on_validation(run)
    metrics = {str(one.key): one for one in evaluation.record.metrics}
    values, reasons = {}, []
    for column in dict.fromkeys((str(criterion.key), *criterion.at_most, *criterion.at_least)):
        metric = metrics.get(column)
        values[column] = metric.value if metric is not None else None
        if values[column] is None:
            why = f"not among the metrics of {evaluation.record.protocol}" if metric is None else metric.reason
            reasons.append(f"{column} could not be measured: {why}")
    for word, limits, sign in (("most", criterion.at_most, 1), ("least", criterion.at_least, -1)):
        for column, limit in limits.items():
            value = values[column]
            if value is not None and sign * value > sign * limit:
                reasons.append(f"{column} is {value:.4g}, at {word} {limit:g} is allowed")
    limited = {column: value for column, value in values.items() if column != str(criterion.key)}
    return {"value": values[str(criterion.key)], "measured": limited, "reason": "; ".join(reasons) or None}


def _spent(trial: RunStatus) -> dict[str, Cost]:
    """Returns what a trial took, by piece. Judging it is part of tuning and charged, unlike a final evaluation."""
    own = {f"run {trial.run_hash}": trial.cost, f"evaluation {trial.run_hash}": trial.evaluation_cost}
    return {**trial.upstream_pieces, **own}


def _on_validation(run: reader.StoredRun) -> reader.StoredEvaluation:
    for evaluation in run.evaluations:
        if evaluation.record.comparability.get("split") == "validation":
            return evaluation
    raise ResultsError(f"{run.path}: not evaluated on validation prompts, which alone may decide; run it again")


def select(trials: Sequence[Trial], direction: Direction) -> int:
    """Returns the position of the best trial among those without a reason against them; the first of equals.

    Raises:
        AlignbenchError: None can be selected; says why, trial by trial.
    """
    able = {position: trial.value for position, trial in enumerate(trials) if trial.reason is None}
    values = [value for value in able.values() if value is not None]
    if not values:
        reasons = "".join(f"\n  {trial.recipe}, {_shown(trial.settings)}: {trial.reason}" for trial in trials)
        raise AlignbenchError(
            f"none of {len(trials)} trials can be selected; other limits or another grid may help{reasons}"
        )
    best = min(values) if direction == "lower" else max(values)
    equals = [position for position, value in able.items() if value == best]
    if len(equals) > 1:
        names = ", ".join(trials[position].recipe for position in equals)
        logger.warning("%s: equal at %.6g; the first is taken", names, best)
    return equals[0]


def _swept(recipes: Sequence[LoadedRecipe]) -> Iterator[LoadedRecipe]:
    """Yields a recipe of each name that has a sweep, after those that it builds on."""
    swept = {recipe.name: recipe for recipe in reversed(recipes) if recipe.sweep is not None}
    seen: set[str] = set()

    def visit(recipe: LoadedRecipe) -> Iterator[LoadedRecipe]:
        for name in recipe.upstream_names():
            if name in swept and name not in seen:
                yield from visit(swept[name])
        if recipe.name not in seen:
            seen.add(recipe.name)
            yield recipe

    for recipe in reversed(swept.values()):
        yield from visit(recipe)


def _plan(recipe: LoadedRecipe) -> tuple[dict[str, Point], dict[str, Planned]]:
    """Returns the trials' settings by name, and every run they need by name."""
    assert recipe.sweep is not None
    trials = [recipe.trial(number, point) for number, point in enumerate(recipe.sweep.trials)]
    planned = {one.recipe.name: one for one in plan(trials)}
    return {one.name: point for one, point in zip(trials, recipe.sweep.trials, strict=True)}, planned


def _identity(recipe: LoadedRecipe, trials: Mapping[str, Point], planned: Mapping[str, Planned]) -> str:
    assert recipe.sweep is not None
    return fingerprint([recipe.sweep.settings.criterion, [planned[name].run_hash for name in trials]])


def _sentence(record: TuningFile) -> str:
    """Says what was selected, and from what."""
    chosen, criterion = record.trials[record.selected], CriterionSettings.model_validate(record.criterion)
    able = sum(trial.reason is None for trial in record.trials)
    return (
        f"{record.recipe}: {chosen.recipe} is selected of {len(record.trials)} trials ({able} could be): "
        f"{_shown(chosen.settings)}; {criterion.key} {chosen.value:.4g} on validation"
    )


def _shown(point: Point) -> str:
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in point.items())
