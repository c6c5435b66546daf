"""Which recipe to use: the lowest row, what is not shown to be worse, and what speaks against lower ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from alignbench.comparison.flags import REWARD_SCORER, Flag
from alignbench.comparison.gains import gain
from alignbench.comparison.numbers import short
from alignbench.comparison.pooling import NOT_TRAINED_HERE, Measurement, PairedRecipes
from alignbench.comparison.ranks import Ranking
from alignbench.comparison.rows import ComparedRecipe, settlement
from alignbench.records import MetricKey
from alignbench.statistics.power import Settlement

DISQUALIFYING = ("reward_hacking", "degenerate", "length_shift", "unscored", "own_judge", "mismatch")
"""Flags of rows whose low value is no success, the worst first."""
MIN_GAIN_LEFT = 0.5
"""Of a gain at equal length: with less of it a row whose answers changed length does not count."""
MAX_NAMES = 6
"""Rows that a sentence names; of more it says how many."""


@dataclass(frozen=True, slots=True)
class Discounted:
    """A row that does not count, and why."""

    recipe: str
    flags: tuple[Flag, ...]
    """Those in DISQUALIFYING, the worst first."""
    measures_better: bool
    """True where its value is better than that of the best row that counts."""


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """Two rows that were not told apart, and what would show a difference as large as the measured one."""

    recipe: str
    other: str
    needed: Settlement


@dataclass(frozen=True)
class Answer:
    """What a table says, as data; `sentences` puts it into words."""

    ranking: Ranking
    baseline: str | None
    best: str | None
    """The row with the best measured value among those that count; None where no row counts."""
    unbeaten: tuple[str, ...]
    """Rows that count and that no row that counts is shown to be better than, the best measured first."""
    discounted: tuple[Discounted, ...]
    """Rows that do not count, the best measured first."""
    about: str
    """`these runs`, `the method`, or `both` where verdicts on some pairs are about one and on others about the other;
    empty where nothing was tested."""
    values: Mapping[str, float | None]
    """What was measured, by row."""
    cost_multiples: Mapping[str, float]
    """Wall seconds of training, in those of the cheapest trained row, by trained row."""
    not_done: tuple[str, ...]
    """Sentences on tuning, seeds and prompts."""

    @property
    def key(self) -> MetricKey:
        """What the answer is about."""
        return self.ranking.key

    @property
    def decides_nothing(self) -> bool:
        """True where of no two rows one is shown to be better."""
        return bool(self.ranking.pairs) and self.ranking.n_shown == 0

    @property
    def includes_zero(self) -> bool:
        """True where every interval of a difference holds zero, before any adjustment, or there is none."""
        found = [pair.measurement.difference for pair in self.ranking.pairs]
        return all(
            one is None or one.ci_low is None or one.ci_high is None or one.ci_low <= 0 <= one.ci_high for one in found
        )

    @property
    def untested(self) -> tuple[str, ...]:
        """Why differences have no interval and no test, a reason for each pair that lacks them."""
        found = [pair.measurement.difference for pair in self.ranking.pairs]
        return tuple(
            "not measured" if one is None or one.reason is None else one.reason
            for one in found
            if one is None or one.ci_low is None
        )

    @cached_property
    def open_questions(self) -> tuple[OpenQuestion, ...]:
        """What would settle what is open: undecided rows against the baseline, and the best against the runner-up."""
        return tuple(self.questions())

    def questions(self) -> Iterator[OpenQuestion]:
        """Yields the same one by one: each takes a while."""
        wanted = [(name, self.baseline) for name in self.ranking.order if name != self.baseline]
        wanted += [(name, self.best) for name in self.unbeaten[1:2] if self.baseline not in (name, self.best)]
        for name, other in wanted:
            pair = None if other is None else self._pair(name, other)
            needed = None if pair is None else settlement(pair.measurement)
            if needed is not None and (needed.prompts or needed.seeds):
                yield OpenQuestion(name, str(other), needed)

    def _pair(self, recipe: str, other: str) -> PairedRecipes | None:
        return self.ranking.pair(recipe, other) or self.ranking.pair(other, recipe)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The answer in words, a sentence each."""
        first = [_unbeaten(self), _best(self)] if self.decides_nothing else [_best(self), _unbeaten(self)]
        said = [*first, _discounted(self), _only_the_number(self), _cost(self)]
        return tuple(one for one in said if one)

    @property
    def about_words(self) -> str:
        """What verdicts are about, in a few words; empty where nothing was tested."""
        return {
            "these runs": "about these runs (prompts vary, the seed does not)",
            "the method": "about the method (prompts and seeds vary)",
            "both": "about the method where seeds allow it, else about these runs",
        }.get(self.about, "")


def answer(
    rows: Sequence[ComparedRecipe], baseline: str | None, ranking: Ranking, not_done: Sequence[str] = ()
) -> Answer:
    """Returns what a table says of one metric."""
    flags = {row.recipe: _against(row, ranking.key) for row in rows}
    measured: dict[str, Measurement | None] = {row.recipe: row.metrics.get(ranking.key) for row in rows}
    values = {name: None if one is None else one.value.value for name, one in measured.items()}
    counted = [name for name in ranking.order if not flags[name] and values[name] is not None]
    best = counted[0] if counted else None
    estimands = {pair.measurement.tested.estimand for pair in ranking.pairs if pair.measurement.tested is not None}
    before = ranking.order[: ranking.order.index(best)] if best is not None else ()
    return Answer(
        ranking,
        baseline,
        best,
        tuple(name for name in counted if not ranking.shown_better[name] & set(counted)),
        tuple(Discounted(name, flags[name], name in before) for name in ranking.order if flags[name]),
        "both" if len(estimands) > 1 else "".join(estimands),
        values,
        cost_multiples(rows),
        tuple(not_done),
    )


def cost_multiples(rows: Sequence[ComparedRecipe], field: str = "wall_seconds") -> dict[str, float]:
    """Returns what training a row took, in multiples of the cheapest trained row; nothing where that is not known.

    Where some rows have updated weights, those that have not (a prompt, a filter) are no measure of that.
    """
    made_here = [row for row in rows if row.method not in NOT_TRAINED_HERE]
    updated = [row for row in made_here if row.cost["optimizer_steps"] > 0]
    costs = {row.recipe: row.cost[field] for row in updated or made_here}
    least = min(costs.values(), default=0.0)
    return {name: cost / least for name, cost in costs.items()} if least > 0 else {}


def _against(row: ComparedRecipe, key: MetricKey) -> tuple[Flag, ...]:
    """Returns the flags for which a row does not count; another judge's being its own is none of this judge."""
    excused = {"length_shift"} if _is_left_at_equal_length(row, key) else set()
    found = [flag for flag in row.flags if flag.name in DISQUALIFYING and flag.name not in excused]
    own = {flag for flag in found if flag.name == "own_judge" and key.scorer not in flag.scorers}
    return tuple(sorted((one for one in found if one not in own), key=lambda one: DISQUALIFYING.index(one.name)))


def _is_left_at_equal_length(row: ComparedRecipe, key: MetricKey) -> bool:
    """True where a gain, a fall in toxicity, is shown at equal length, and most of it."""
    one = row.metrics.get(key)
    if one is None or one.length_matched is None:
        return False
    found = gain(row, key, one.length_matched)
    return found.is_shown and found.left is not None and found.left >= MIN_GAIN_LEFT


def listed(names: Sequence[str], most: int = MAX_NAMES) -> str:
    """Returns names in a row, of many the first ones and how many more there are."""
    rest = len(names) - most
    return f"{', '.join(names[:most])} and {rest:,} more" if rest > 1 else ", ".join(names)


def judge(key: MetricKey) -> str:
    """Returns in words what a metric is measured by."""
    if key.scorer is None:
        return key.metric
    if key.scorer == REWARD_SCORER:
        return f"{key.metric} by the training reward's own classifier, no held-out judge"
    return f"{key.metric} by the held-out judge {key.scorer!r}"


def _best(one: Answer) -> str:
    if one.best is None:
        return "No row counts: each has a flag that speaks against it, or no value."
    pairs = one.ranking.pairs
    word = {"higher": "highest"}.get(pairs[0].measurement.direction, "lowest") if pairs else "lowest"
    value = short(one.values[one.best])
    trained = [name for name in one.ranking.order if name != one.baseline]
    if one.best == one.baseline:
        return f"{one.best}, the baseline, has the {word} {judge(one.key)}: {value}." if trained else ""
    reference = "" if one.baseline is None else f"; {one.baseline} has {short(one.values[one.baseline])}"
    optimistic = f" The {word} of several measured values is optimistic."
    return f"{one.best} has the {word} {judge(one.key)}: {value}{reference}.{optimistic if len(trained) > 1 else ''}"


def _unbeaten(one: Answer) -> str:
    n = len(one.ranking.pairs)
    together = "95 %" if n == 1 else f"95 %, all {n:,} pairs together"
    if n == 0 or one.best is None:
        return ""
    if one.decides_nothing:
        return f"{_undecided(one, together)}: this comparison decides nothing."
    others = "row" if not one.discounted else "row that counts"
    if len(one.unbeaten) > 1:
        return f"No {others} is shown to be better than {listed(one.unbeaten)}: {together}."
    told = [name for name in one.ranking.order if one.best in one.ranking.shown_better[name]]
    counted = len(one.ranking.order) - len(one.discounted) - 1
    if set(told) >= {name for name in one.ranking.order if name != one.best} - {d.recipe for d in one.discounted}:
        every = f"{'the only' if counted == 1 else 'every'} other {others}"
        return f"{one.best} is shown to be better than {every}: {together}." if counted else ""
    return f"No {others} is shown to be better than {one.best}: {together}."


def _undecided(one: Answer, together: str) -> str:
    """Why nothing is decided: no test was possible, none found a difference, or none does among so many."""
    n_untested, reasons = len(one.untested), listed(list(dict.fromkeys(one.untested)), 1)
    if n_untested == len(one.ranking.pairs):
        return f"No difference could be tested ({reasons})"
    if not one.includes_zero:
        return f"No difference is shown ({together})"
    but = f", but {n_untested:,} of {len(one.ranking.pairs):,} could not be tested ({reasons})" if n_untested else ""
    return f"All differences include zero{but}"


def _discounted(one: Answer) -> str:
    better = [row for row in one.discounted if row.measures_better]
    if not better:
        return ""
    said = [f"{row.recipe} ({', '.join(dict.fromkeys(flag.name for flag in row.flags))})" for row in better]
    verb = "measures" if len(better) == 1 else "measure"
    return f"{listed(said)} {verb} better and {'does' if len(better) == 1 else 'do'} not count: see the flags."


def _cost(one: Answer) -> str:
    multiple = one.cost_multiples.get(one.best or "")
    if multiple is None or len(one.cost_multiples) < 2:
        return ""
    if multiple == 1.0:
        return f"{one.best} is the cheapest to train."
    cheapest = min(one.cost_multiples, key=lambda name: one.cost_multiples[name])
    said = f"{one.best} takes {multiple:.1f} times as long to train as {cheapest}, the cheapest"
    least, name = min((one.cost_multiples[name], name) for name in one.unbeaten if name in one.cost_multiples)
    return f"{said}." if name == one.best else f"{said}; of those not told apart {name} takes least, {least:.1f} times."


def _only_the_number(one: Answer) -> str:
    """Names verdicts that only the number of rows has changed, those beside the baseline first."""
    place = one.ranking.order.index
    lost = [sorted((pair.recipe, pair.other), key=place) for pair in one.ranking.lost_to_adjustment]
    if not lost:
        return ""
    lost.sort(key=lambda pair: (one.baseline not in pair, place(pair[0]), place(pair[1])))
    said = listed([f"{first} against {second}" for first, second in lost], 3)
    return f"Open only because there are {len(one.ranking.pairs):,} pairs: {said}."
