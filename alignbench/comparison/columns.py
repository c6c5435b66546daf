"""The columns of the table that `compare` prints: what is in them, how they are sorted, and which fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from alignbench.comparison.answer import cost_multiples
from alignbench.comparison.comparison import Comparison
from alignbench.comparison.cost_columns import COSTS, PER_ANSWER, shown, shown_per_answer
from alignbench.comparison.gains import Gain
from alignbench.comparison.grid import width_of
from alignbench.comparison.numbers import interval, short
from alignbench.comparison.pooling import NOT_TRAINED_HERE
from alignbench.comparison.rows import ComparedRecipe
from alignbench.errors import UsageError, did_you_mean
from alignbench.records import MetricKey
from alignbench.statistics.estimate import Estimate

LETTERS = {
    **{"reward_hacking": "R", "degenerate": "D", "length_shift": "L", "unscored": "U", "own_judge": "O"},
    **{"mismatch": "M", "hacking_suspected": "H", "scorers_disagree": "S", "prompts_cut": "C", "budget_differs": "B"},
    **{"made_elsewhere": "E", "upstream": "+"},
}
"""What flags are called in the table, the gravest first."""
ALWAYS = ("value", "rank", "verdict", "kl", "train", "flags")
"""Beside the recipe, whatever the width."""
WIDER = ("difference", "perplexity", "answer", "length", "interval")
"""What comes to it, in this order, while it fits; the value's interval takes the value's place."""
ORDER = ("value", "interval", "rank", "difference", "verdict", "kl", "perplexity", "length", "train", "answer", "flags")


FEW_SEEDS = 5
"""So many values are shown one by one."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column by its name."""

    header: str
    cell: Callable[[ComparedRecipe], str]
    sorts: Callable[[ComparedRecipe], float | str | None]
    """The smallest first; None comes last."""
    is_left: bool = False


def letters(row: ComparedRecipe) -> str:
    """Returns the flags of a row, a letter each, the gravest first."""
    names = {flag.name for flag in row.flags}
    return "".join(letter for name, letter in LETTERS.items() if name in names)


def by_seed(row: ComparedRecipe, key: MetricKey) -> str:
    """Returns what each seed gave, or of many seeds the least and the most."""
    values = row.by_seed.get(key, ())
    if len(values) > FEW_SEEDS:
        known = [value for value in values if value is not None]
        return f"{short(min(known))} to {short(max(known))}" if known else "-"
    return " ".join(short(value) for value in values)


class Columns:
    """The columns of one comparison."""

    def __init__(self, comparison: Comparison, key: MetricKey) -> None:
        self._comparison, self._key = comparison, key
        self._multiples = cost_multiples(comparison.recipes)

    def chosen(self, names: Sequence[str], option: str) -> list[Column]:
        """Returns columns by the names that a user wrote: those of the table, metrics, or costs."""
        known = self.known
        metrics: dict[str, list[MetricKey]] = {}
        for key in self._keys:
            metrics.setdefault(key.metric, []).append(key)
        found = []
        for name in names:
            alike = metrics.get(name, [])
            if name not in known and len(alike) > 1:
                raise UsageError(f"{option}: {name} has several scorers; write one of {', '.join(map(str, alike))}")
            one = known.get(name) or (known[str(alike[0])] if alike else None)
            if one is None:
                raise UsageError(
                    f"{option}: got {name!r}, expected one of the columns{did_you_mean(name, list(known))} "
                    f"({', '.join(known)})"
                )
            found.append(one)
        return found

    def fitting(self, rows: Sequence[ComparedRecipe], width: int) -> list[Column]:
        """Returns the columns of the default table that fit, those without any value left out."""
        known = self.known
        taken = [name for name in ALWAYS if name in known and name != self._key.metric]
        for name in WIDER:
            if name == self._key.metric:
                continue
            added = [*(one for one in taken if one != "value" or name != "interval"), name]
            if name in known and sum(self._width(known[one], rows) for one in added) <= width:
                taken = added
        kept = [known[name] for name in ORDER if name in taken]
        return [one for one in kept if any(one.cell(row) not in ("", "-") for row in rows)]

    def sorted(self, rows: Sequence[ComparedRecipe], name: str) -> list[ComparedRecipe]:
        """Returns rows by one column, the best or the least first, those without a value last."""
        [column] = self.chosen([name], "--sort")
        keys = [(key is None, key) for key in map(column.sorts, rows)]
        order = sorted((i for i, (lacks, _) in enumerate(keys) if not lacks), key=lambda i: keys[i])
        return [rows[i] for i in order] + [row for row, (lacks, _) in zip(rows, keys, strict=True) if lacks]

    @staticmethod
    def _width(column: Column, rows: Sequence[ComparedRecipe]) -> int:
        return width_of([column.header, *map(column.cell, rows)])

    @property
    def _keys(self) -> list[MetricKey]:
        return list(dict.fromkeys(key for row in self._comparison.recipes for key in row.metrics))

    @property
    def known(self) -> Mapping[str, Column]:
        """Every column by its name."""
        key = self._key
        found = {
            "recipe": Column("recipe", lambda row: row.recipe, lambda row: row.recipe, is_left=True),
            "method": Column("method", lambda row: row.method, lambda row: row.method, is_left=True),
            "seeds": Column("seeds", lambda row: ",".join(map(str, row.seeds)), lambda row: len(row.seeds)),
            "value": self._metric(key, "toxicity" if key.metric.startswith("toxicity") else key.metric),
            "interval": Column(f"{key.metric}, 95 %", lambda row: interval(_value(row, key)), self._place),
            "rank": Column("rank", self._rank, self._place),
            "difference": Column(f"difference to {self._comparison.baseline}", self._difference, self._place),
            "verdict": Column("verdict", self._verdict, lambda row: self._verdict(row) or None, is_left=True),
            "train": Column("to train", self._train, lambda row: row.cost["wall_seconds"]),
            "answer": Column("per answer", self._answer, lambda row: row.cost_per_answer.get("flops_per_answer")),
            "flags": Column("flags", letters, letters, is_left=True),
            "gain": Column("gain at equal length", self._gain, self._place),
            "by_seed": Column("each seed", lambda row: by_seed(row, key), self._place),
        }
        names = {"kl": ("kl", "KL"), "perplexity": ("perplexity", "perpl."), "length": ("completion_tokens", "tokens")}
        for name, (metric, header) in names.items():
            if MetricKey(metric) in self._keys and MetricKey(metric) != key:
                found[name] = self._metric(MetricKey(metric), header)
        found |= {str(one): self._metric(one, str(one)) for one in self._keys if str(one) not in found}
        found |= {name: self._cost(name, header) for name, header in COSTS.items()}
        return found | {name: self._per_answer(name, header) for name, header in PER_ANSWER.items()}

    def _metric(self, key: MetricKey, header: str) -> Column:
        sign = -1 if any(key in row.metrics and row.metrics[key].direction == "higher" for row in self._rows) else 1

        def sorts(row: ComparedRecipe) -> float | None:
            value = _value(row, key).value
            return None if value is None else sign * value

        return Column(header, lambda row: short(_value(row, key).value), sorts)

    def _cost(self, name: str, header: str) -> Column:
        return Column(header, lambda row: shown(name, row.cost[name]), lambda row: row.cost[name])

    def _per_answer(self, name: str, header: str) -> Column:
        first = self._rows[0].cost_per_answer.get(name) if self._rows else None
        return Column(
            header,
            lambda row: shown_per_answer(name, row.cost_per_answer.get(name), first),
            lambda row: row.cost_per_answer.get(name),
        )

    @property
    def _rows(self) -> Sequence[ComparedRecipe]:
        return self._comparison.recipes

    def _place(self, row: ComparedRecipe) -> float | None:
        ranking = self._comparison.ranking
        return None if ranking is None else ranking.order.index(row.recipe)

    @cached_property
    def _gains(self) -> Mapping[str, Gain]:
        return self._comparison.gains()

    def _gain(self, row: ComparedRecipe) -> str:
        return self._gains[row.recipe].word if row.recipe in self._gains else "-"

    def _rank(self, row: ComparedRecipe) -> str:
        ranking = self._comparison.ranking
        return "-" if ranking is None else str(ranking.ranges[row.recipe])

    def _difference(self, row: ComparedRecipe) -> str:
        found = row.metrics.get(self._key)
        return "-" if found is None or found.difference is None else interval(found.difference, "+")

    def _verdict(self, row: ComparedRecipe) -> str:
        if row.recipe == self._comparison.baseline:
            return "baseline"
        return self._comparison.verdict(row, self._key) or "-"

    def _train(self, row: ComparedRecipe) -> str:
        if row.method in NOT_TRAINED_HERE:
            return "-"
        multiple = self._multiples.get(row.recipe)
        return _seconds(row.cost["wall_seconds"]) + ("" if multiple is None else f" {multiple:.1f}x")

    def _answer(self, row: ComparedRecipe) -> str:
        first, own = (one.cost_per_answer.get("flops_per_answer") for one in (self._rows[0], row))
        return "-" if not first or own is None else f"{own / first:.3g}x"


def _value(row: ComparedRecipe, key: MetricKey) -> Estimate:
    one = row.metrics.get(key)
    return Estimate(None) if one is None else one.value


def _seconds(seconds: float) -> str:
    """Returns a time in the unit that people would use."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
