"""Which ranks a recipe may have on one metric: what tests of all pairs, adjusted together, leave open.

With Holm's adjustment over all pairs, half of the 5 % for those with the baseline and half for the others, the chance
that any of their verdicts is false is at most 5 %, whatever the dependence between them. A recipe's range of ranks goes
from 1 + the rows shown to be better to the number of rows less those shown to be worse, so that with at least 95 % all
ranges together hold the true ranks. Rows whose ranges overlap are not equal: they have not been told apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from alignbench.comparison.flags import HEADLINE, REWARD_SCORER, judgement
from alignbench.comparison.pooling import Measurement, PairedRecipes
from alignbench.errors import UsageError, did_you_mean
from alignbench.records import MetricKey
from alignbench.statistics.estimate import ALPHA, Estimate, Verdict

_TURNED: Mapping[Verdict | None, Verdict] = {"better": "worse", "worse": "better"}


@dataclass(frozen=True, slots=True)
class RankRange:
    """The ranks that a row may have, both ends included; 1 is the best."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True)
class Ranking:
    """Every row of a table against every other on one metric, one family of tests."""

    key: MetricKey
    pairs: tuple[PairedRecipes, ...]
    """Those that could be compared, each once; p adjusted over all of them."""
    order: tuple[str, ...]
    """Rows by their measured value, the best first; lower is first where the metric has no direction. Those without a
    value are last."""

    @cached_property
    def _by_names(self) -> dict[tuple[str, str], PairedRecipes]:
        return {(pair.recipe, pair.other): pair for pair in self.pairs}

    def pair(self, recipe: str, other: str) -> PairedRecipes | None:
        """Returns a pair as it was tested; None the other way round, or where the two were not compared."""
        return self._by_names.get((recipe, other))

    def difference(self, recipe: str, other: str) -> Estimate | None:
        """Returns recipe minus other, interval and p with it; None where they were not compared."""
        if (pair := self.pair(recipe, other)) is not None:
            return pair.measurement.difference
        pair = self.pair(other, recipe)
        return None if pair is None or pair.measurement.difference is None else _negative(pair.measurement.difference)

    def verdict(self, recipe: str, other: str) -> Verdict | None:
        """Returns what a recipe is beside another, the one verdict on these two; None where they were not compared."""
        if (pair := self.pair(recipe, other)) is not None:
            return judgement(pair.measurement)
        pair = self.pair(other, recipe)
        word = None if pair is None else judgement(pair.measurement)
        return _TURNED.get(word, word)

    @cached_property
    def shown_better(self) -> Mapping[str, frozenset[str]]:
        """By row, the rows that are shown to be better; below it, where the metric has no direction."""
        found: dict[str, set[str]] = {name: set() for name in self.order}
        for pair in self.pairs:
            if (first := _first_of(pair)) is not None:
                found[pair.other if first == pair.recipe else pair.recipe].add(first)
        return {name: frozenset(better) for name, better in found.items()}

    @cached_property
    def ranges(self) -> Mapping[str, RankRange]:
        """The ranks that each row may have."""
        n, worse = len(self.order), dict.fromkeys(self.order, 0)
        for better in self.shown_better.values():
            for name in better:
                worse[name] += 1
        return {name: RankRange(1 + len(self.shown_better[name]), n - worse[name]) for name in self.order}

    @property
    def n_shown(self) -> int:
        """Pairs of which one row is shown to be better."""
        return sum(len(better) for better in self.shown_better.values())

    @property
    def lost_to_adjustment(self) -> tuple[PairedRecipes, ...]:
        """Pairs that only the number of rows leaves open: by their own p, without the others, one would be better."""
        return tuple(
            pair
            for pair in self.pairs
            if (found := pair.measurement.difference) is not None
            and found.p_value is not None
            and found.p_adjusted is not None
            and found.p_value <= ALPHA < found.p_adjusted
        )


def ranking(key: MetricKey, measured: Mapping[str, Measurement | None], pairs: Iterable[PairedRecipes]) -> Ranking:
    """Returns the ranking of recipes.

    Args:
        key: What they are ranked by.
        measured: By recipe, what was measured; None where nothing was.
        pairs: Every pair of them, of which those on other metrics are passed over.
    """

    def place(name: str) -> tuple[bool, float]:
        one = measured[name]
        value = None if one is None else one.value.value
        if one is None or value is None:
            return True, 0.0
        return False, -value if one.direction == "higher" else value

    return Ranking(key, tuple(pair for pair in pairs if pair.key == key), tuple(sorted(measured, key=place)))


def headline(keys: Sequence[MetricKey], wanted: str | None, word_lists: Collection[str] = ()) -> MetricKey | None:
    """Returns what a table is about.

    Args:
        keys: What was measured.
        wanted: The metric that was asked for, as METRIC@SCORER, or METRIC where one scorer alone has it. None: mean
            toxicity by the first held-out judge, a model before a list of words; by the reward where no other judges.
        word_lists: The scorers that are lists of words.

    Returns:
        The metric; None where nothing was asked for and toxicity was not measured.

    Raises:
        UsageError: What was asked for was not measured, or several scorers have it.
    """
    if wanted is not None:
        return named_metric(keys, wanted, "--metric")
    judged = [key for key in keys if key.metric == HEADLINE]
    return min(judged, key=lambda key: (key.scorer == REWARD_SCORER, key.scorer in word_lists), default=None)


def named_metric(keys: Sequence[MetricKey], name: str, option: str) -> MetricKey:
    """Returns the metric of a name that a user wrote; UsageError where there is none, or several."""
    known = {str(key): key for key in keys}
    fits = [known[name]] if name in known else [key for key in keys if key.metric == name]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise UsageError(f"{option}: {name} was taken over several scorers; write one of {', '.join(map(str, fits))}")
    raise UsageError(
        f"{option}: got {name!r}, expected one of what was measured{did_you_mean(name, list(known))} "
        f"({', '.join(known)})"
    )


def _first_of(pair: PairedRecipes) -> str | None:
    """Returns which of two is shown to be better, or lower; None where neither is."""
    word, difference = judgement(pair.measurement), pair.measurement.difference
    if word == "different" and difference is not None and difference.value is not None:
        return pair.recipe if difference.value < 0 else pair.other
    return {"better": pair.recipe, "worse": pair.other}.get(word or "")


def _negative(one: Estimate) -> Estimate:
    def minus(value: float | None) -> float | None:
        return None if value is None else -value

    return Estimate(
        minus(one.value), minus(one.ci_high), minus(one.ci_low), one.n, one.p_value, one.reason, one.p_adjusted
    )
