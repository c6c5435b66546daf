"""What a report is made from: a comparison, and the runs behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from alignbench.comparison.comparison import Comparison
from alignbench.comparison.document import Document, document
from alignbench.comparison.flags import HEADLINE, REWARD_SCORER, WARNINGS, judgement
from alignbench.comparison.gains import Gain
from alignbench.comparison.pooling import Measurement, RecipeRuns
from alignbench.comparison.rows import ComparedRecipe
from alignbench.records import MetricKey
from alignbench.results.reader import Paths, StoredRun, find_runs
from alignbench.statistics.estimate import Estimate


@dataclass(frozen=True)
class Material:
    """A comparison with the stored runs of each recipe."""

    comparison: Comparison
    runs: tuple[StoredRun, ...]
    """All of them, of reward models too."""

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
    def document(self) -> Document:
        """The comparison section by section, as `compare` sets it."""
        return document(self.comparison)

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
        if ranking is not None and key == ranking.key and (found := ranking.difference(row.recipe, baseline)):
            return found, ranking.verdict(row.recipe, baseline) or "not measured"
        return one.difference, judgement(one) or "not measured"

    def measured(self, key: MetricKey) -> list[tuple[ComparedRecipe, Measurement]]:
        """Returns the rows that have a metric, with it."""
        return [(row, row.metrics[key]) for row in self.rows if key in row.metrics]

    def named(self, recipe: str) -> str:
        """Returns a recipe with its letter, as pictures and their tables have it."""
        return f"{self.letters[recipe]}  {recipe}"

    def marked(self, row: ComparedRecipe) -> str:
        """Returns the same with a `!` where a flag speaks against the row."""
        return self.named(row.recipe) + (" !" if has_warning(row) else "")


def gather(paths: Paths, comparison: Comparison) -> Material:
    """Reads the runs behind a comparison."""
    runs, _ = find_runs(paths)
    return Material(comparison, tuple(runs))


def has_warning(row: ComparedRecipe) -> bool:
    """True where a flag speaks against a row."""
    return any(flag.name in WARNINGS for flag in row.flags)


def letters(place: int) -> str:
    """Returns A, B ... Z, AA, AB ..."""
    first, last = divmod(place, 26)
    return (letters(first - 1) if first else "") + chr(ord("A") + last)
