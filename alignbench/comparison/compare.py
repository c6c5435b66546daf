"""Which recipe is better, and is the difference real: one comparison from run directories, verdicts included.

Verdicts are about *the method*, prompts and seeds both random, where there are two seeds or more of what is trained;
else about *these runs*, prompts alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from alignbench.comparison.comparability import (
    between_models,
    find_mismatches,
    group_key,
    require_comparable,
    require_no_leak,
    version_notes,
    word_lists,
)
from alignbench.comparison.comparison import Comparison
from alignbench.comparison.equal_length import EqualLength
from alignbench.comparison.evaluation_prompts import rows_notes
from alignbench.comparison.flags import (
    HEADLINE,
    REWARD_SCORER,
    Flag,
    budget_flags,
    measured_flags,
    own_judge_flag,
    scorers_disagree_flag,
    upstream_flag,
)
from alignbench.comparison.hacking_over_seeds import along_training_flag, hacking_along_training
from alignbench.comparison.models import by_model
from alignbench.comparison.notes import MADE_ELSEWHERE_NOTE, SEEDS_NOTE, covers_seeds, notes_on
from alignbench.comparison.pooling import (
    MADE_ELSEWHERE,
    UNTRAINED,
    Matrix,
    Measurement,
    Pool,
    RecipeRuns,
    measure,
    measure_pairs,
    metric_keys,
)
from alignbench.comparison.ranks import headline
from alignbench.comparison.rows import ComparedRecipe
from alignbench.comparison.threads import in_threads
from alignbench.errors import ResultsError, UsageError, did_you_mean
from alignbench.records import MetricKey
from alignbench.results.reader import Paths, SkippedRun, StoredEvaluation, StoredRun, at_measurement, find_runs
from alignbench.statistics.crossed import over_seeds

_Measured = list[tuple[StoredRun, StoredEvaluation]]


def compare(
    paths: Paths,
    baseline: str | None = None,
    allow_mismatch: bool = False,
    protocol: str | None = None,
    all_pairs: bool = False,
    metric: str | None = None,
    measurement: int | None = None,
) -> Comparison:
    """Compares the runs below some paths.

    Args:
        paths: a results root, a recipe's or a run's directory, or several of them. Runs on several base models are
            compared model by model, never across.
        baseline: name of the recipe that the others are compared with; None means the untrained one, as it does for a
            model that has no such recipe.
        allow_mismatch: let runs be in one table that do not belong there, marked as such.
        protocol: which evaluation to take; needed only where runs have several.
        all_pairs: test every pair of recipes on every metric as well, families of their own.
        metric: what ranks and answer are about, as METRIC@SCORER; by default mean toxicity by a held-out judge.
        measurement: of runs that were measured again, which one to take, 1 being the run's own; None is the latest.

    Raises:
        ResultsError: There is nothing to compare.
        ComparabilityError: The runs were not evaluated alike.
        LeakError: Training of one could see what another was evaluated on; `allow_mismatch` does not help.
        UsageError: No such baseline, or none to be guessed; no such metric; no run has such a measurement.
    """
    runs, skipped = find_runs(paths)
    if measurement is not None:
        runs = at_measurement(runs, measurement)
    measured = [(run, _evaluation(run, protocol)) for run in runs]
    usable, unusable = _with_evaluation(measured)
    skipped += unusable
    if not usable:
        raise ResultsError("no run has an evaluation that can be read:" + "".join(f"\n  {one}" for one in skipped))
    reward_models = _reward_model_groups([one for one in usable if one[0].status.kind == "reward_model"])
    of_models = by_model([one for one in usable if one[0].status.kind == "policy"])
    names = {run.status.recipe for measured in of_models.values() for run, _ in measured}
    wanted = _Wanted(baseline, allow_mismatch, all_pairs, metric, _unread(skipped))
    if names:
        wanted.require_baseline(sorted(names))
    tables = [_table(policies, wanted, model) for model, policies in of_models.items()]
    if len(tables) == 1:
        return replace(tables[0], reward_models=reward_models, skipped=tuple(skipped))
    notes = (f"Models differ in more than their weights: {one}." for one in between_models(of_models.values()))
    return Comparison(
        *(None, None, 0, 0, ()),
        reward_models=reward_models,
        skipped=tuple(skipped),
        notes=tuple(notes),
        blocks=tuple(tables),
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the caller asked for of every table."""

    baseline: str | None
    allow_mismatch: bool
    all_pairs: bool
    metric: str | None
    unread: str
    """What could not be read: the baseline may be among it."""

    def require_baseline(self, names: Sequence[str]) -> None:
        """UsageError where no table has the baseline that was asked for."""
        if self.baseline is not None and self.baseline not in names:
            raise UsageError(
                f"baseline: got {self.baseline!r}, expected one of {', '.join(names)}"
                f"{did_you_mean(self.baseline, names)}{self.unread}"
            )


def _table(policies: _Measured, wanted: _Wanted, model: str) -> Comparison:
    """Compares the policies of one base model."""
    _refuse_duplicates([run for run, _ in policies])
    mismatches = find_mismatches(policies)
    if not wanted.allow_mismatch:
        require_comparable(mismatches)
    policy_runs = [run for run, _ in policies]
    unchecked = require_no_leak(policy_runs)
    recipes = _by_recipe(policies)
    chosen = _choose_baseline(recipes, wanted, model) if recipes else None
    recipes.sort(key=lambda one: one is not chosen)
    first = policies[0][1].record if policies else None
    rows = _compared(recipes, chosen, mismatched=bool(mismatches))
    measured = {(row.recipe, key): one for row in rows for key, one in row.metrics.items()}
    lists = _word_lists(recipes[0], rows[0].metrics) if recipes else ()
    return Comparison(
        baseline=chosen.recipe if chosen else None,
        protocol=first.protocol if first else None,
        n_prompts=first.n_prompts if first else 0,
        samples_per_prompt=first.samples_per_prompt if first else 0,
        recipes=rows,
        pairs=tuple(measure_pairs(recipes, measured)) if wanted.all_pairs else (),
        mismatches=tuple(mismatches),
        notes=(*notes_on(recipes, chosen), *rows_notes(policies), *unchecked, *version_notes(policy_runs)),
        key=headline(metric_keys(recipes), wanted.metric, lists) if recipes else None,
        runs=tuple(recipes),
        model=model or None,
    )


def _refuse_duplicates(runs: Sequence[StoredRun]) -> None:
    seen: dict[str, StoredRun] = {}
    for run in runs:
        other = seen.setdefault(run.label, run)
        if other is not run:
            raise ResultsError(
                f"{run.label} occurs twice, in {other.path} and {run.path}; leave one out, or give one another --name"
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


def _with_evaluation(
    measured: Sequence[tuple[StoredRun, StoredEvaluation | None]],
) -> tuple[_Measured, list[SkippedRun]]:
    """Splits off the runs without an evaluation."""
    usable = [(run, evaluation) for run, evaluation in measured if evaluation is not None]
    bare = [run for run, evaluation in measured if evaluation is None]
    return usable, [SkippedRun(run.path, "incomplete", "no evaluation to compare", run.status) for run in bare]


def _by_recipe(measured: _Measured) -> list[RecipeRuns]:
    """Returns the runs by recipe, seeds ascending, recipes by name."""
    found: dict[str, _Measured] = {}
    for one in sorted(measured, key=lambda one: (one[0].status.recipe, one[0].status.seed)):
        found.setdefault(one[0].status.recipe, []).append(one)
    return [RecipeRuns(name, runs[0][0].status.method, tuple(runs)) for name, runs in found.items()]


def _unread(skipped: Sequence[SkippedRun]) -> str:
    return f"\n{len(skipped)} skipped:" + "".join(f"\n  {one}" for one in skipped) if skipped else ""


def _choose_baseline(recipes: Sequence[RecipeRuns], wanted: _Wanted, model: str) -> RecipeRuns:
    names = [one.recipe for one in recipes]
    fits = [one for one in recipes if one.recipe == wanted.baseline]
    if not fits:
        fits = [one for one in recipes if one.method == UNTRAINED] or (list(recipes) if len(recipes) == 1 else [])
    if len(fits) == 1:
        return fits[0]
    said = f"several untrained runs ({', '.join(one.recipe for one in fits)})" if fits else "no untrained run"
    raise UsageError(
        f"{f'{model}: ' if model else ''}{said} to compare with; name the baseline with --baseline, one of "
        f"{', '.join(names)}{wanted.unread}"
    )


def _compared(
    recipes: Sequence[RecipeRuns], baseline: RecipeRuns | None, mismatched: bool = False
) -> tuple[ComparedRecipe, ...]:
    measurements = _measurements(recipes, baseline)
    costs = {one.recipe: one.mean_cost() for one in recipes}
    trained = [one.recipe for one in recipes if one.varies] if baseline else []
    budgets = budget_flags({recipe: costs[recipe]["training_completions"] for recipe in trained})
    rows = []
    for one in recipes:
        metrics = measurements[one.recipe]
        flags = measured_flags(metrics, _word_lists(one, metrics))
        hacking = hacking_along_training([run.status for run, _ in one.runs])
        built_on = {(u.recipe, u.seed, u.role) for run, _ in one.runs for u in run.status.upstream}
        upstream = sorted(f"{name}/seed{seed} ({role})" for name, seed, role in built_on if role != "tuning")
        n_trials = sum(role == "tuning" for _, _, role in built_on)
        upstream += [f"{n_trials} trials that tuned it"] if n_trials else []
        named = (
            along_training_flag(hacking),
            _own_judge(one),
            scorers_disagree_flag(_harm_by_scorer(one)),
            upstream_flag(upstream),
            budgets.get(one.recipe),
        )
        flags += [flag for flag in named if flag is not None]
        if one.method in MADE_ELSEWHERE:
            flags.append(Flag("made_elsewhere", MADE_ELSEWHERE_NOTE))
        if baseline is not None and one is not baseline and not covers_seeds(one, baseline):
            flags.append(Flag("seeds_not_covered", SEEDS_NOTE))
        if mismatched:
            flags.append(Flag("mismatch", "not comparable with the rest of this table"))
        rows.append(
            ComparedRecipe(
                one.recipe,
                one.method,
                one.seeds,
                metrics,
                one.mean_train_reward(),
                costs[one.recipe],
                one.mean_answer_cost(),
                tuple(flags),
                hacking,
                one.by_seed(),
            )
        )
    return tuple(rows)


def _measurements(
    recipes: Sequence[RecipeRuns], baseline: RecipeRuns | None
) -> dict[str, dict[MetricKey, Measurement]]:
    """Returns what was measured of each recipe, at equal length too where its completions have changed length."""
    found: dict[str, dict[MetricKey, Measurement]] = {one.recipe: {} for one in recipes}
    for (recipe, key), measurement in measure(recipes, baseline).items():
        found[recipe][key] = measurement
    if baseline is None:
        return found
    equal_length = EqualLength(baseline)
    changed = [one for one in recipes if any(flag.name == "length_shift" for flag in measured_flags(found[one.recipe]))]
    matched = in_threads(lambda one: equal_length.added_to(found[one.recipe], one), changed)
    return found | {one.recipe: metrics for one, metrics in zip(changed, matched, strict=True)}


def _word_lists(recipe: RecipeRuns, metrics: Iterable[MetricKey]) -> frozenset[str]:
    """Returns the scorers that are lists of words; reads no recipe where there is nothing to tell apart."""
    judges = [key for key in metrics if key.metric == HEADLINE and key.scorer != REWARD_SCORER]
    return word_lists(recipe.runs[0][0]) if len(judges) > 1 else frozenset()


def _harm_by_scorer(one: RecipeRuns) -> dict[str, Matrix]:
    """Returns what each scorer gave a recipe's prompts, means over seeds and over the variants of a text: (texts,)."""
    pool = Pool([one])
    stored = {
        key.scorer: pool.matrix(one, key) for key in one.keys if key.metric == HEADLINE and key.scorer is not None
    }
    found = {scorer: over_seeds(values) for scorer, values in stored.items() if values is not None}
    if (groups := pool.groups) is None:
        return found
    texts = np.unique(groups)
    return {
        scorer: np.array([over_seeds(values[groups == text, None])[0] for text in texts])
        for scorer, values in found.items()
    }


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
    for group in groups.values():
        _refuse_duplicates([run for run, _ in group])
    return tuple(_compared(_by_recipe(group), None) for group in groups.values())
