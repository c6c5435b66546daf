"""What a report is made from: a comparison, and the runs behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from alignbench.comparison.comparison import Comparison
from alignbench.comparison.flags import HEADLINE, REWARD_SCORER, WARNINGS
from alignbench.comparison.gains import Gain
from alignbench.comparison.pooling import Measurement, RecipeRuns
from alignbench.comparison.rows import ComparedRecipe
from alignbench.records import MetricKey
from alignbench.results.reader import Paths, StoredRun, find_runs
from alignbench.statistics.estimate import Estimate


@dataclass(frozen=True)
class Material:
    """One table of a comparison, with the stored runs of each recipe."""

    comparison: Comparison
    runs: tuple[StoredRun, ...]
    """All of them, and the reward models that they were built on."""
    place: int = 0
    """Of several tables, which one, from 1; 0 where there is one."""

    @cached_property
    def key(self) -> MetricKey:
        """What the report is about, whether or not it was measured."""
        return self.comparison.key or MetricKey(HEADLINE)

    @cached_property
    def judges(self) -> list[MetricKey]:
        """Mean toxicity by every scorer: by that of `key`, by other held-out judges, by the reward's classifier."""
        found = dict.fromkeys(key for row in self.comparison.recipes for key in row.metrics if key.metric == HEADLINE)
        return sorted(found, key=lambda key: (key != self.key, key.scorer == REWARD_SCORER))

    @property
    def what(self) -> str:
        """What the report is about, in a word."""
        return "toxicity" if self.key.metric == HEADLINE else str(self.key)

    @property
    def better(self) -> str:
        """Which values of `key` are better, in words."""
        measured = (row.metrics[self.key].direction for row in self.rows if self.key in row.metrics)
        return {"lower": "lower is better", "higher": "higher is better"}.get(next(measured, "none"), "no direction")

    @cached_property
    def rows(self) -> tuple[ComparedRecipe, ...]:
        """The recipes, the best measured first."""
        rows = {row.recipe: row for row in self.comparison.recipes}
        ranking = self.comparison.ranking
        return tuple(rows[name] for name in (rows if ranking is None else ranking.order))

    @cached_property
    def letters(self) -> dict[str, str]:
        """A letter or two by recipe, by which pictures call it: A for the first of `rows`."""
        return {row.recipe: letters(place) for place, row in enumerate(self.rows)}

    @cached_property
    def recipes(self) -> Mapping[str, RecipeRuns]:
        """The runs of each recipe, with the evaluation that was compared; in the order of `rows`."""
        found = {one.recipe: one for one in self.comparison.runs}
        return {row.recipe: found[row.recipe] for row in self.rows}

    @cached_property
    def gains(self) -> Mapping[str, Gain]:
        """Change of length, and what is left of a gain at equal length, by recipe."""
        return {} if self.comparison.key is None else self.comparison.gains()

    def difference(self, row: ComparedRecipe, key: MetricKey) -> tuple[Estimate, str] | None:
        """Returns a row's difference to the baseline, and the one verdict on it; None for the baseline itself.

        On `key` it is that among all pairs, which ranks come from; elsewhere that among those with the baseline.
        """
        one, ranking = row.metrics.get(key), self.comparison.ranking
        baseline = self.comparison.baseline
        if one is None or one.difference is None or baseline is None:
            return None
        is_ranked = ranking is not None and key == ranking.key
        among_all = ranking.difference(row.recipe, baseline) if ranking is not None and is_ranked else None
        return among_all or one.difference, self.comparison.verdict(row, key) or "not measured"

    def measured(self, key: MetricKey) -> list[tuple[ComparedRecipe, Measurement]]:
        """Returns the rows that have a metric, with it."""
        return [(row, row.metrics[key]) for row in self.rows if key in row.metrics]

    @property
    def several(self) -> str:
        """What the names of parts and pictures begin with where there are several tables: `2-`."""
        return f"{self.place}-" if self.place else ""

    def named(self, recipe: str) -> str:
        """Returns a recipe with its letter, as pictures and their tables have it."""
        return f"{self.letters[recipe]}  {recipe}"

    def marked(self, row: ComparedRecipe) -> str:
        """Returns the same with a `!` where a flag speaks against the row."""
        return self.named(row.recipe) + (" !" if has_warning(row) else "")


def gather(paths: Paths, comparison: Comparison) -> list[Material]:
    """Reads the runs behind a comparison: a table, or one for each base model."""
    runs, _ = find_runs(paths)
    if not comparison.blocks:
        return [Material(comparison, tuple(runs))]
    return [Material(block, _runs_of(block, runs), place) for place, block in enumerate(comparison.blocks, 1)]


def _runs_of(block: Comparison, runs: Sequence[StoredRun]) -> tuple[StoredRun, ...]:
    """Returns the runs of a table, and the reward models that they were built on."""
    paths = {run.path for one in block.runs for run, _ in one.runs}
    upstream = {one.run_hash for run in runs if run.path in paths for one in run.status.upstream}
    return tuple(run for run in runs if run.path in paths or run.status.run_hash in upstream)


def has_warning(row: ComparedRecipe) -> bool:
    """True where a flag speaks against a row."""
    return any(flag.name in WARNINGS for flag in row.flags)


def letters(place: int) -> str:
    """Returns A, B ... Z, AA, AB ..."""
    first, last = divmod(place, 26)
    return (letters(first - 1) if first else "") + chr(ord("A") + last)
