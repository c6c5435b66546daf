"""Which recipe is better, and is the difference real: one comparison from run directories, verdicts included.

Verdicts are about *the method*, prompts and seeds both random, where there are two seeds or more of what is trained;
else about *these runs*, prompts alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alignbench.errors import ResultsError, UsageError, did_you_mean
from alignbench.records import Direction
from alignbench.reporting.comparability import Mismatch, find_mismatches, group_key, require_comparable
from alignbench.reporting.flags import (
    HEADLINE,
    REWARD_SCORER,
    Flag,
    budget_flags,
    judgement,
    measured_flags,
    own_judge_flag,
    upstream_flag,
)
from alignbench.reporting.pooling import (
    UNTRAINED,
    Measurement,
    MetricKey,
    PairedRecipes,
    RecipeRuns,
    beside,
    measure,
    measure_pairs,
    metric_keys,
)
from alignbench.reporting.schema import UnreadableError
from alignbench.reporting.store import Paths, SkippedRun, StoredEvaluation, StoredRun, find_runs
from alignbench.statistics.differences import has_method
from alignbench.statistics.estimate import Estimate

SEEDS_NOTE = (
    "Verdicts are about these runs: intervals and tests cover the choice of prompts, not the seed. "
    "Another seed may come out differently."
)
METHOD_NOTE = (
    "Verdicts are about the method: intervals and tests of differences cover the choice of prompts and of seeds. "
    "Intervals of values cover prompts alone."
)
FAMILY_NOTE = (
    "Verdicts follow the adjusted p: Holm's correction over the {n} recipes that are compared with {baseline} on one "
    "metric and scorer. Intervals and p are not adjusted."
)


@dataclass(frozen=True)
class ComparedRecipe:
    """A row of the table."""

    recipe: str
    method: str
    seeds: tuple[int, ...]
    metrics: Mapping[MetricKey, Measurement]
    train_reward: float | None
    cost: Mapping[str, float]
    """Fields of `records.Cost`, upstream included; means over seeds."""
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Everything that the tables show."""

    baseline: str | None
    protocol: str | None
    n_prompts: int
    samples_per_prompt: int
    recipes: tuple[ComparedRecipe, ...]
    """The baseline first."""
    pairs: tuple[PairedRecipes, ...] = ()
    """Every pair of recipes on every metric, where asked for."""
    reward_models: tuple[tuple[ComparedRecipe, ...], ...] = ()
    """One group per set of pairs that they were measured on."""
    mismatches: tuple[Mismatch, ...] = ()
    """Not empty only where the user let runs stand side by side that are not comparable."""
    skipped: tuple[SkippedRun, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)

    def records(self) -> list[dict[str, object]]:
        """Returns a record per recipe and metric, with the fields that docs/results.md lists; then one per pair."""
        rows = [record for row in self.recipes for record in _records(row, self.baseline)]
        by_name = {row.recipe: row for row in self.recipes}
        for pair in self.pairs:
            row, flags = by_name[pair.recipe], [flag.name for flag in by_name[pair.recipe].flags]
            rows.append(_record(row, *pair.key, pair.measurement, pair.other, flags) | {"family": "all pairs"})
        return rows + [record for group in self.reward_models for row in group for record in _records(row, None)]


_Measured = list[tuple[StoredRun, StoredEvaluation]]


def compare(
    paths: Paths,
    baseline: str | None = None,
    allow_mismatch: bool = False,
    protocol: str | None = None,
    all_pairs: bool = False,
) -> Comparison:
    """Compares the runs below some paths.

    Args:
        paths: a results root, a recipe's or a run's directory, or several of them.
        baseline: name of the recipe that the others are compared with; None means the untrained one.
        allow_mismatch: let runs stand in one table that do not belong there, marked as such.
        protocol: which evaluation to take; needed only where runs have several.
        all_pairs: test every pair of recipes as well, a family of its own.

    Raises:
        ResultsError: There is nothing to compare, or a newer release wrote it.
        ComparabilityError: The runs were not evaluated alike.
        UsageError: No such baseline, or none to be guessed.
    """
    runs, skipped = find_runs(paths)
    _refuse_duplicates(runs)
    measured = [(run, _evaluation(run, protocol)) for run in runs]
    usable, unusable = _readable(measured)
    skipped += unusable
    policies = [one for one in usable if one[0].status.kind == "policy"]
    reward_models = [one for one in usable if one[0].status.kind == "reward_model"]
    if not usable:
        raise ResultsError("no run has an evaluation that can be read:" + "".join(f"\n  {one}" for one in skipped))
    mismatches = find_mismatches(policies)
    if not allow_mismatch:
        require_comparable(mismatches)
    recipes = _by_recipe(policies)
    chosen = _choose_baseline(recipes, baseline) if recipes else None
    recipes.sort(key=lambda one: one is not chosen)
    first = policies[0][1].record if policies else None
    rows = _compared(recipes, chosen, mismatched=bool(mismatches))
    measured_by_name = {(row.recipe, key): one for row in rows for key, one in row.metrics.items()}
    return Comparison(
        baseline=chosen.recipe if chosen else None,
        protocol=first.protocol if first else None,
        n_prompts=first.n_prompts if first else 0,
        samples_per_prompt=first.samples_per_prompt if first else 0,
        recipes=rows,
        pairs=tuple(measure_pairs(recipes, measured_by_name)) if all_pairs else (),
        reward_models=_reward_model_groups(reward_models),
        mismatches=tuple(mismatches),
        skipped=tuple(skipped),
        notes=tuple(_notes(recipes, chosen)),
    )


def _refuse_duplicates(runs: Sequence[StoredRun]) -> None:
    seen: dict[str, StoredRun] = {}
    for run in runs:
        other = seen.setdefault(run.label, run)
        if other is not run:
            raise ResultsError(
                f"{run.label} stands twice, in {other.path} and {run.path}; leave one out, or give one another --name"
            )


def _evaluation(run: StoredRun, protocol: str | None) -> StoredEvaluation | None:
    """Returns the evaluation to compare; None where the run has none that fits."""
    fits = [one for one in run.evaluations if protocol in (None, one.record.protocol)]
    if run.status.kind == "reward_model":
        fits = list(run.evaluations)
    if len(fits) > 1:
        names = ", ".join(one.record.protocol for one in fits)
        raise UsageError(f"{run.label} was evaluated under {names}; choose one `protocol` to compare under")
    return fits[0] if fits else None


def _readable(measured: Sequence[tuple[StoredRun, StoredEvaluation | None]]) -> tuple[_Measured, list[SkippedRun]]:
    """Splits off the runs without an evaluation, and those whose values cannot be read."""
    usable: _Measured = []
    skipped = []
    for run, evaluation in measured:
        if evaluation is None:
            skipped.append(SkippedRun(run.path, "incomplete", "no evaluation to compare", run.status))
            continue
        try:
            _ = evaluation.prompt_values
        except UnreadableError as error:
            skipped.append(SkippedRun(run.path, "corrupt", str(error), run.status))
        else:
            usable.append((run, evaluation))
    return usable, skipped


def _by_recipe(measured: _Measured) -> list[RecipeRuns]:
    """Returns the runs by recipe, seeds ascending, recipes by name."""
    found: dict[str, _Measured] = {}
    for one in sorted(measured, key=lambda one: (one[0].status.recipe, one[0].status.seed)):
        found.setdefault(one[0].status.recipe, []).append(one)
    return [RecipeRuns(name, runs[0][0].status.method, tuple(runs)) for name, runs in found.items()]


def _choose_baseline(recipes: Sequence[RecipeRuns], wanted: str | None) -> RecipeRuns:
    names = [one.recipe for one in recipes]
    if wanted is not None:
        fits = [one for one in recipes if one.recipe == wanted]
        if not fits:
            raise UsageError(
                f"baseline: got {wanted!r}, expected one of {', '.join(names)}{did_you_mean(wanted, names)}"
            )
        return fits[0]
    fits = [one for one in recipes if one.method == UNTRAINED] or (list(recipes) if len(recipes) == 1 else [])
    if len(fits) == 1:
        return fits[0]
    said = f"several untrained runs ({', '.join(one.recipe for one in fits)})" if fits else "no untrained run"
    raise UsageError(f"{said} to compare with; name the baseline with --baseline, one of {', '.join(names)}")


def _compared(
    recipes: Sequence[RecipeRuns], baseline: RecipeRuns | None, mismatched: bool = False
) -> tuple[ComparedRecipe, ...]:
    measurements = measure(recipes, baseline)
    costs = {one.recipe: one.mean_cost() for one in recipes}
    trained = [one.recipe for one in recipes if one.method != UNTRAINED] if baseline else []
    budgets = budget_flags({recipe: costs[recipe]["training_completions"] for recipe in trained})
    rows = []
    for one in recipes:
        metrics = {key: found for (recipe, key), found in measurements.items() if recipe == one.recipe}
        flags = measured_flags(metrics)
        built_on = {(u.recipe, u.seed, u.role) for run, _ in one.runs for u in run.status.upstream}
        upstream = sorted(f"{name}/seed{seed} ({role})" for name, seed, role in built_on if role != "tuning")
        n_trials = sum(role == "tuning" for _, _, role in built_on)
        upstream += [f"{n_trials} trials that tuned it"] if n_trials else []
        named = (_own_judge(one), upstream_flag(upstream), budgets.get(one.recipe))
        flags += [flag for flag in named if flag is not None]
        if baseline is not None and one is not baseline and not covers_seeds(one, baseline):
            flags.append(Flag("seeds_not_covered", SEEDS_NOTE))
        if mismatched:
            flags.append(Flag("mismatch", "not comparable with the rest of this table"))
        rows.append(
            ComparedRecipe(
                one.recipe, one.method, one.seeds, metrics, one.mean_train_reward(), costs[one.recipe], tuple(flags)
            )
        )
    return tuple(rows)


def _own_judge(recipe: RecipeRuns) -> Flag | None:
    trained_on = {source for run, _ in recipe.runs for source in run.status.trained_on}
    judges: dict[str, set[str]] = {}
    for _, evaluation in recipe.runs:
        for scorer, sources in evaluation.record.scorer_sources.items():
            judges.setdefault(scorer, set()).update(sources)
    return own_judge_flag(trained_on, judges)


def _reward_model_groups(measured: _Measured) -> tuple[tuple[ComparedRecipe, ...], ...]:
    """Returns the reward models, those that were measured on the same pairs together."""
    groups: dict[str, _Measured] = {}
    for run, evaluation in measured:
        groups.setdefault(group_key(evaluation), []).append((run, evaluation))
    return tuple(_compared(_by_recipe(group), None) for group in groups.values())


def _notes(recipes: Sequence[RecipeRuns], baseline: RecipeRuns | None) -> list[str]:
    notes = []
    others = [one for one in recipes if baseline is not None and one is not baseline]
    if baseline is not None and others:
        single = [one.recipe for one in others if not covers_seeds(one, baseline)]
        if len(single) < len(others):
            notes.append(METHOD_NOTE)
        if single:
            notes.append(SEEDS_NOTE if len(single) == len(others) else f"{', '.join(single)}: {SEEDS_NOTE}")
        if len(others) > 1:
            notes.append(FAMILY_NOTE.format(n=len(others), baseline=baseline.recipe))
    scorers = {scorer for metric, scorer in metric_keys(recipes) if metric == HEADLINE}
    if scorers == {REWARD_SCORER}:
        notes.append("There is no held-out judge: toxicity is measured by the training reward's own classifier alone.")
    for one in recipes:
        if baseline is None or one is baseline:
            continue
        theirs = beside(one, baseline)
        if theirs.seeds != one.seeds:
            mine = _seeds(one.seeds)
            notes.append(f"{one.recipe} ({mine}) is compared with {baseline.recipe} of {_seeds(theirs.seeds)}.")
        elif theirs.seeds != baseline.seeds:
            notes.append(f"{one.recipe} is compared with {_seeds(theirs.seeds)} of {baseline.recipe}, its own.")
    return notes


def covers_seeds(one: RecipeRuns, baseline: RecipeRuns) -> bool:
    """True where the verdicts of a recipe are about the method."""
    theirs = beside(one, baseline)
    return has_method(one.varies, len(one.runs), theirs.varies, len(theirs.runs))


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _records(row: ComparedRecipe, baseline: str | None) -> list[dict[str, object]]:
    reference = None if row.recipe == baseline else baseline
    flags = [flag.name for flag in row.flags]
    rows = []
    for (metric, scorer), one in row.metrics.items():
        rows.append(_record(row, metric, scorer, one, reference, flags))
    for name, value in {"train_reward": row.train_reward, **row.cost}.items():
        rows.append(_record(row, name, None, _single(value), reference, flags))
    return rows


def _single(value: float | None) -> Measurement:
    """A number of the run as a whole: no prompts, no interval, no test."""
    direction: Direction = "none"
    return Measurement(Estimate(value), None, direction, 0, 0)


def _record(
    row: ComparedRecipe, metric: str, scorer: str | None, one: Measurement, baseline: str | None, flags: list[str]
) -> dict[str, object]:
    difference = one.difference or Estimate(None)
    tested = one.tested
    runs = tested.these_runs if tested else Estimate(None)
    return {
        "recipe": row.recipe,
        "method": row.method,
        "metric": metric,
        "scorer": scorer,
        "value": one.value.value,
        "ci_low": one.value.ci_low,
        "ci_high": one.value.ci_high,
        "n_scored": one.n_scored,
        "n_unscored": one.n_unscored,
        "n_seeds": len(row.seeds),
        "baseline": baseline,
        "difference": difference.value,
        "difference_ci_low": difference.ci_low,
        "difference_ci_high": difference.ci_high,
        "p_value": difference.p_value,
        "p_adjusted": difference.p_adjusted,
        "verdict": judgement(one),
        "family": "baseline" if tested else None,
        "estimand": tested.estimand if tested else None,
        "runs_ci_low": runs.ci_low,
        "runs_ci_high": runs.ci_high,
        "runs_p_value": runs.p_value,
        "detectable_difference": tested.detectable() if tested else None,
        "flags": flags,
    }
