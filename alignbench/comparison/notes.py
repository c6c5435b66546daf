"""What holds for a whole comparison and has to be said beside it."""

from __future__ import annotations

from collections.abc import Sequence

from alignbench.comparison.flags import HEADLINE, REWARD_SCORER
from alignbench.comparison.pooling import RecipeRuns, metric_keys
from alignbench.results.reader import StoredEvaluation, StoredRun
from alignbench.statistics.crossed import MIN_SEEDS
from alignbench.statistics.differences import has_method

SEEDS_NOTE = (
    "Verdicts are about these runs: intervals and tests cover the choice of prompts, not the seed. "
    "Another seed may come out differently."
)
MADE_ELSEWHERE_NOTE = (
    "trained elsewhere: what that has cost, on how many seeds it was chosen, and whether it has seen the prompts that "
    "are held out here, is not known; costs are those of the work done here"
)
METHOD_NOTE = (
    "Verdicts are about the method: intervals and tests of differences cover the choice of prompts and of seeds. "
    "Intervals of values cover prompts alone."
)
FAMILY_NOTE = (
    "Verdicts follow the adjusted p: Holm's correction over the {n} recipes that are compared with {baseline} on one "
    "metric and scorer. Intervals and p are not adjusted."
)


def notes_on(recipes: Sequence[RecipeRuns], baseline: RecipeRuns | None) -> list[str]:
    """Returns what verdicts are about, what they are adjusted for, and which seeds are compared with which."""
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
    scorers = {key.scorer for key in metric_keys(recipes) if key.metric == HEADLINE}
    if scorers == {REWARD_SCORER}:
        notes.append("There is no held-out judge: toxicity is measured by the training reward's own classifier alone.")
    notes += _unequal_seeds(recipes)
    notes += _groups(recipes)
    notes += _measurements([one for recipe in recipes for one in recipe.runs])
    for one in others:
        if baseline is not None and baseline.seeds != one.seeds:
            mine, theirs = _seeds(one.seeds), _seeds(baseline.seeds)
            notes.append(f"{one.recipe} ({mine}) is compared with {baseline.recipe} of {theirs}.")
    return notes


def _unequal_seeds(recipes: Sequence[RecipeRuns]) -> list[str]:
    """Says that unequal numbers of seeds are a loss."""
    numbers = {one.recipe: len(one.runs) for one in recipes if one.varies}
    if len(set(numbers.values())) < 2 or max(numbers.values()) < MIN_SEEDS:
        return []
    said = ", ".join(f"{recipe} {n}" for recipe, n in numbers.items())
    return [
        f"Numbers of seeds differ ({said}). Between two trained recipes the smaller number decides how well the spread "
        "of seeds is known: as many seeds spread equally would see more."
    ]


def _groups(recipes: Sequence[RecipeRuns]) -> list[str]:
    """Says that some prompts are variants of one text."""
    groups: dict[str, str] = {}
    for one in recipes:
        for _, evaluation in one.runs:
            groups |= evaluation.record.prompt_groups
    if not groups:
        return []
    return [
        f"{len(groups)} prompts are variants of {len(set(groups.values()))} texts: intervals and tests count those of "
        "one text as one witness."
    ]


def _measurements(measured: Sequence[tuple[StoredRun, StoredEvaluation]]) -> list[str]:
    """Says which measurement is shown of runs that were measured more than once."""
    said: dict[str, list[str]] = {}
    for run, evaluation in measured:
        record, n = evaluation.record, run.n_measurements
        if n > 1:
            how = "the run itself"
            if record.measurement is not None:
                changed = ", ".join(record.measurement.changed) or "nothing changed"
                how = f"{record.measurement.by} on {record.measurement.finished[:10]}, {changed}"
            said.setdefault(f"measurement {record.number} of {n} ({how})", []).append(run.label)
    return [f"Shown of {', '.join(labels)}: {what}; --measurement K shows another." for what, labels in said.items()]


def covers_seeds(one: RecipeRuns, baseline: RecipeRuns) -> bool:
    """True where the verdicts of a recipe are about the method."""
    return has_method(one.varies, len(one.runs), baseline.varies, len(baseline.runs))


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
