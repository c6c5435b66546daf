"""A comparison as data: its rows, and the answer that they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from alignbench.comparison.answer import Answer, answer
from alignbench.comparison.comparability import Mismatch
from alignbench.comparison.domination import (
    Contender,
    Domination,
    answers_until_it_pays,
    contenders_of,
    dominations,
)
from alignbench.comparison.equal_length import EqualLength
from alignbench.comparison.examples import Example, examples
from alignbench.comparison.flags import judgement
from alignbench.comparison.gains import Gain, gain
from alignbench.comparison.models import AcrossModels, Block, across
from alignbench.comparison.not_done import not_done
from alignbench.comparison.pooling import MADE_ELSEWHERE, PairedRecipes, RecipeRuns, measure_pairs
from alignbench.comparison.ranks import Ranking, ranking
from alignbench.comparison.rows import ComparedRecipe, record_of, records_of
from alignbench.comparison.threads import in_threads
from alignbench.errors import NothingComparedError
from alignbench.records import MetricKey
from alignbench.results.reader import SkippedRun
from alignbench.statistics.estimate import Verdict
from alignbench.statistics.prompt_means import Groups

if TYPE_CHECKING:
    import pandas as pd

MOST_CONTENDERS = 30
"""Rows among which dominated ones are looked for, each against each."""
_OF_THE_TABLE = ("protocol", "n_prompts", "samples_per_prompt")
_ADDED = ("rank_first", "rank_last", "p_all_pairs", "verdict_all_pairs", "model")
"""Fields of a record that came later, in their order behind all others."""


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
    model: str | None = None
    """The base model, where this is the table of one of several."""
    blocks: tuple[Comparison, ...] = ()
    """A table per base model, where there are several: then there are no rows here."""

    @cached_property
    def across(self) -> AcrossModels | None:
        """How methods came out on several models; None where there is one."""
        return across([one.as_block for one in self.blocks]) if self.blocks else None

    @property
    def as_block(self) -> Block:
        """What is needed of this table beside those of other models."""
        rows = [row for row in self.recipes if row.recipe != self.baseline]
        key = self.key
        words = {row.recipe: None if key is None else self.verdict(row, key) for row in rows}
        return Block(str(self.model), {row.recipe: row.method for row in rows}, words, self.ranking)

    @cached_property
    def ranking(self) -> Ranking | None:
        """Every row against every other on `key`; None where there is no such metric."""
        if self.key is None:
            return None
        measured = {(row.recipe, key): one for row in self.recipes for key, one in row.metrics.items()}
        pairs = self.pairs or measure_pairs(self.runs, measured, {self.key})
        return ranking(self.key, {row.recipe: row.metrics.get(self.key) for row in self.recipes}, pairs)

    def verdict(self, row: ComparedRecipe, key: MetricKey) -> Verdict | None:
        """Returns the one verdict on a row beside the baseline: where all pairs were tested, theirs."""
        pair = self._beside_baseline.get((row.recipe, key))
        found = row.metrics.get(key) if pair is None else pair.measurement
        return None if found is None else judgement(found)

    @cached_property
    def _beside_baseline(self) -> dict[tuple[str, MetricKey], PairedRecipes]:
        pairs = self.pairs or (self.ranking.pairs if self.ranking is not None else ())
        return {(pair.recipe, pair.key): pair for pair in pairs if pair.other == self.baseline}

    @cached_property
    def answer(self) -> Answer | None:
        """Which recipe to use; None where there is nothing to rank by."""
        if self.ranking is None:
            return None
        return answer(self.recipes, self.baseline, self.ranking, not_done(self.runs))

    @cached_property
    def dominations(self) -> list[Domination]:
        """Rows that another one does no worse than and is no dearer than; not looked for in very long tables.

        Rows that do not count dominate nothing, nor does what was trained elsewhere, at a cost that is not known.
        """
        if self.answer is None or len(self.runs) > MOST_CONTENDERS:
            return []
        doubtful = {one.recipe for one in self.answer.discounted}
        doubtful |= {row.recipe for row in self.recipes if row.method in MADE_ELSEWHERE}
        return [one for one in dominations(*self._contenders) if one.by not in doubtful]

    @cached_property
    def _contenders(self) -> tuple[list[Contender], Groups | None]:
        return contenders_of(self.runs)

    @cached_property
    def pays_from(self) -> dict[str, int]:
        """From how many answers on the best row costs less, training included, than rows that update no weights.

        Of rows that count, and are dearer to answer.
        """
        if self.answer is None or len(self.runs) > MOST_CONTENDERS:
            return {}
        contenders = {one.recipe: one for one in self._contenders[0]}
        left_out = {self.baseline, *(one.recipe for one in self.answer.discounted)}
        best = contenders.get(self.answer.best or "")
        others = [row.recipe for row in self.recipes if not row.cost["optimizer_steps"] and row.recipe not in left_out]
        found = {name: answers_until_it_pays(best, contenders[name]) if best else None for name in others}
        return {name: n for name, n in found.items() if n}

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
        tables = self.blocks or (self,)
        found = [record for table in tables for record in table._own_records()]
        for group in self.reward_models:
            bare = [record for row in group for record in records_of(row, None)]
            found += [(record | dict.fromkeys(_OF_THE_TABLE), dict.fromkeys(_ADDED)) for record in bare]
        # In each record, so that none of them can be quoted without.
        tables = (*self.blocks, self)
        said: dict[str, object] = {
            "mismatch": [str(one) for table in tables for one in table.mismatches],
            "notes": list(dict.fromkeys(note for table in tables for note in table.notes)),
            "skipped": [str(one) for one in self.skipped],
        }
        return [record | said | added for record, added in found]

    def _own_records(self) -> list[tuple[dict[str, object], dict[str, object]]]:
        """Returns the records of the rows and pairs, and of each what stands behind everything else."""
        rows = [one for some in in_threads(lambda row: records_of(row, self.baseline), self.recipes) for one in some]
        by_name = {row.recipe: row for row in self.recipes}
        pairs = in_threads(
            lambda pair: record_of(by_name[pair.recipe], pair.key, pair.measurement, pair.other, "all pairs"),
            self.pairs,
        )
        of_the_table = dict(zip(_OF_THE_TABLE, (self.protocol, self.n_prompts, self.samples_per_prompt), strict=True))
        nothing = dict.fromkeys(_ADDED) | {"model": self.model}
        return [(record | of_the_table, nothing | self._ranked(record)) for record in rows] + [
            (record | of_the_table, nothing) for record in pairs
        ]

    def _ranked(self, record: Mapping[str, object]) -> dict[str, object]:
        """Returns what ranks say of a record; nothing where they are about another metric."""
        ranking, name = self.ranking, str(record["recipe"])
        if ranking is None or (record["metric"], record["scorer"]) != (ranking.key.metric, ranking.key.scorer):
            return {}
        found = None if self.baseline is None else ranking.difference(name, self.baseline)
        return {
            "rank_first": ranking.ranges[name].first,
            "rank_last": ranking.ranges[name].last,
            "p_all_pairs": None if found is None else found.p_adjusted,
            "verdict_all_pairs": None if self.baseline is None else ranking.verdict(name, self.baseline),
        }

    def frame(self) -> pd.DataFrame:
        """Returns the records as a pandas frame, a row each."""
        import pandas as pd

        return pd.DataFrame(self.records())

    def require_two(self) -> None:
        """Raises NothingComparedError where no table has two recipes."""
        policies = [block.recipes for block in self.blocks] or [self.recipes]
        tables = [table for table in (*policies, *self.reward_models) if table]
        if all(len(table) < 2 for table in tables):
            names = ", ".join(row.recipe for table in tables for row in table)
            skipped = f"; {len(self.skipped)} skipped" if self.skipped else ""
            raise NothingComparedError(
                f"nothing was compared: got {names} alone, expected two recipes or more in one table{skipped}"
            )
