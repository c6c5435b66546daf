"""A comparison as data: its rows, and the answer that they give."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from alignbench.comparison.answer import Answer, answer
from alignbench.comparison.comparability import Mismatch
from alignbench.comparison.equal_length import EqualLength
from alignbench.comparison.examples import Example, examples
from alignbench.comparison.gains import Gain, gain
from alignbench.comparison.not_done import not_done
from alignbench.comparison.pooling import PairedRecipes, RecipeRuns, measure_pairs
from alignbench.comparison.ranks import Ranking, ranking
from alignbench.comparison.rows import ComparedRecipe, record_of, records_of
from alignbench.errors import NothingComparedError
from alignbench.records import MetricKey
from alignbench.results.reader import SkippedRun
from alignbench.results.threads import in_threads


@dataclass(frozen=True)
class Comparison:
    """Everything that the tables show. What takes time is found when it is asked for, once."""

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
    """Not empty only where the user let runs be side by side that are not comparable."""
    skipped: tuple[SkippedRun, ...] = ()
    notes: tuple[str, ...] = ()
    key: MetricKey | None = None
    """What ranks and answer are about; None where no such thing was measured."""
    runs: tuple[RecipeRuns, ...] = field(default=(), repr=False, compare=False)
    """What the rows are made from, in their order."""

    @cached_property
    def ranking(self) -> Ranking | None:
        """Every row against every other on `key`; None where there is no such metric."""
        if self.key is None:
            return None
        measured = {(row.recipe, key): one for row in self.recipes for key, one in row.metrics.items()}
        pairs = self.pairs or measure_pairs(self.runs, measured, {self.key})
        return ranking(self.key, {row.recipe: row.metrics.get(self.key) for row in self.recipes}, pairs)

    @cached_property
    def answer(self) -> Answer | None:
        """Which recipe to use; None where there is nothing to rank by."""
        if self.ranking is None:
            return None
        return answer(self.recipes, self.baseline, self.ranking, not_done(self.runs))

    def gains(self, *recipes: str) -> dict[str, Gain]:
        """Returns change of length and gain at equal length of some rows, or of all; the baseline has none."""
        rows = [row for row in self.recipes if row.recipe != self.baseline and (not recipes or row.recipe in recipes)]
        return dict(zip((row.recipe for row in rows), in_threads(self._gain, rows), strict=True))

    def _gain(self, row: ComparedRecipe) -> Gain:
        assert self.key is not None
        one = row.metrics.get(self.key)
        found = one.length_matched if one is not None else None
        return gain(row, self.key, found or self._equal_length.of(self.key, self._runs_of(row.recipe)))

    @cached_property
    def _equal_length(self) -> EqualLength:
        return EqualLength(self._runs_of(self.baseline))

    def _runs_of(self, recipe: str | None) -> RecipeRuns:
        return next(one for one in self.runs if one.recipe == recipe)

    def examples(self, recipe: str | None = None, n: int = 1) -> list[Example]:
        """Returns prompts as the baseline answers them and as a recipe does, by default the best trained that counts.

        They are representative, not picked; none where completions cannot be read or nothing scores them one by one.
        """
        if recipe is None and self.answer is not None:
            against = {one.recipe for one in self.answer.discounted}
            order = sorted(self.answer.ranking.order, key=lambda name: name in against)
            recipe = next((name for name in order if name != self.baseline), None)
        if self.key is None or self.key.scorer is None or self.baseline is None or recipe is None:
            return []
        return examples(self._runs_of(self.baseline), self._runs_of(recipe), self.key.scorer, n)

    def records(self) -> list[dict[str, object]]:
        """Returns a record per recipe and metric, with the fields that docs/results.md lists; then one per pair."""
        rows = [one for some in in_threads(lambda row: records_of(row, self.baseline), self.recipes) for one in some]
        by_name = {row.recipe: row for row in self.recipes}
        rows += in_threads(
            lambda pair: record_of(by_name[pair.recipe], pair.key, pair.measurement, pair.other, "all pairs"),
            self.pairs,
        )
        protocol = {
            "protocol": self.protocol,
            "n_prompts": self.n_prompts,
            "samples_per_prompt": self.samples_per_prompt,
        }
        rows = [record | protocol for record in rows]
        for group in self.reward_models:
            others = [record for row in group for record in records_of(row, None)]
            rows += [record | dict.fromkeys(protocol) for record in others]
        # In each record, so that none of them can be quoted without.
        said = {
            "mismatch": [str(one) for one in self.mismatches],
            "notes": list(self.notes),
            "skipped": [str(one) for one in self.skipped],
        }
        return [record | said for record in rows]

    def require_two(self) -> None:
        """Raises NothingComparedError where no table has two recipes."""
        tables = [table for table in (self.recipes, *self.reward_models) if table]
        if all(len(table) < 2 for table in tables):
            names = ", ".join(row.recipe for table in tables for row in table)
            skipped = f"; {len(self.skipped)} skipped" if self.skipped else ""
            raise NothingComparedError(
                f"nothing was compared: got {names} alone, expected two recipes or more in one table{skipped}"
            )
