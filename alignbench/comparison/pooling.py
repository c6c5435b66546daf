"""From stored runs to one estimate per recipe and metric, and to the tests of their differences."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from alignbench.comparison.cost_columns import PER_ANSWER
from alignbench.comparison.scales import exponential, mean_replicates, scaled
from alignbench.comparison.threads import in_threads
from alignbench.records import Cost, Direction, MetricKey
from alignbench.results.reader import StoredEvaluation, StoredRun
from alignbench.results.schema import StoredMetric
from alignbench.results.traits import Traits
from alignbench.statistics.crossed import over_seeds
from alignbench.statistics.differences import CorpusPair, Pair, Tested, adjust, compare_corpora, compare_pairs
from alignbench.statistics.estimate import Estimate
from alignbench.statistics.jackknife import N_JACKKNIFE_GROUPS, jackknife_group, jackknife_interval
from alignbench.statistics.length_matching import LengthMatched
from alignbench.statistics.prompt_means import mean_intervals, numbered

Matrix = NDArray[np.float64]
UNTRAINED = "untrained"
"""The method that trains nothing: its seeds share one policy, and differ in the sampling of completions alone."""
MADE_ELSEWHERE = frozenset({"external", "stored_completions"})
"""Methods whose policies were trained elsewhere: neither their cost nor what they have seen is known."""
NOT_TRAINED_HERE = MADE_ELSEWHERE | {UNTRAINED}
"""Methods whose seeds share one policy, and whose training has cost nothing here."""
_PAIRS_AT_ONCE = 2048
NOT_STORED = "neither values per prompt nor values with prompts left out were stored: no interval over seeds, no test"


def trained_for(method: str, amount: float) -> float | None:
    """Returns what training has cost: nothing where there was none, None where it was done elsewhere."""
    return None if method in MADE_ELSEWHERE else 0.0 if method == UNTRAINED else amount


@dataclass(frozen=True)
class RecipeRuns:
    """All seeds of one recipe."""

    recipe: str
    method: str
    runs: tuple[tuple[StoredRun, StoredEvaluation], ...]

    @property
    def varies(self) -> bool:
        """True where another seed is another policy."""
        return self.method not in NOT_TRAINED_HERE

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds in ascending order."""
        return tuple(run.status.seed for run, _ in self.runs)

    @cached_property
    def keys(self) -> tuple[MetricKey, ...]:
        """Every metric that any run has, in the order of the files."""
        return tuple(dict.fromkeys(key for _, evaluation in self.runs for key in evaluation.metrics))

    def metrics(self, key: MetricKey) -> list[StoredMetric]:
        """Returns one stored value per seed, fewer where a seed lacks the metric."""
        return [evaluation.metrics[key] for _, evaluation in self.runs if key in evaluation.metrics]

    def by_seed(self) -> dict[MetricKey, tuple[float | None, ...]]:
        """Returns every metric's values, one per seed; None where a seed lacks it."""
        stored = [evaluation.metrics for _, evaluation in self.runs]
        return {
            key: tuple(metrics[key].value if key in metrics else None for metrics in stored)
            for key in metric_keys([self])
        }

    def traits(self, key: MetricKey) -> Traits:
        """Returns what tables and tests of a metric go by."""
        return self.runs[0][1].record.traits_of(key.metric)

    def mean_cost(self) -> dict[str, float]:
        """Returns what a run of this recipe is charged, by field of Cost: means over seeds, the peak's maximum."""
        charged = [run.charged_cost for run, _ in self.runs]
        mean = {field.name: float(np.mean([getattr(cost, field.name) for cost in charged])) for field in fields(Cost)}
        return mean | {"peak_memory_gib": max(cost.peak_memory_gib for cost in charged)}

    def mean_answer_cost(self) -> dict[str, float]:
        """Returns what an answer costs, means over seeds; empty where a seed does not say."""
        costs = [evaluation.record.answer_cost for _, evaluation in self.runs]
        known = [(cost.generated_tokens, cost.flops, cost.reward_calls) for cost in costs if cost is not None]
        if len(known) < len(costs):
            return {}
        tokens, flops, calls = zip(PER_ANSWER, np.mean(known, axis=0).tolist(), strict=True)
        return dict((tokens, flops, calls) if calls[1] else (tokens, flops))

    def mean_train_reward(self) -> float | None:
        """Returns the mean over seeds, None where a seed has none."""
        rewards = [run.status.train_reward for run, _ in self.runs]
        known = [reward for reward in rewards if reward is not None]
        return float(np.mean(known)) if len(known) == len(rewards) else None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One metric of one recipe. `difference` is None for the baseline itself."""

    value: Estimate
    difference: Estimate | None
    direction: Direction
    n_scored: int
    n_unscored: int
    tested: Tested | None = None
    """Both estimands of the difference, and what the design could see."""
    length_matched: LengthMatched | None = None
    """The difference at equal length, where lengths have moved."""
    n_cut: int = 0
    """Completions, summed over seeds, that the scorer read after a cut prompt."""
    traits: Traits = field(default_factory=Traits)


@dataclass(frozen=True, slots=True)
class PairedRecipes:
    """One metric of two recipes, tested in the family of all pairs."""

    recipe: str
    other: str
    key: MetricKey
    measurement: Measurement
    """Of `recipe`; the difference is to `other`."""


def metric_keys(recipes: Iterable[RecipeRuns]) -> list[MetricKey]:
    """Returns every metric that any run has, in the order of the files."""
    return list(dict.fromkeys(key for one in recipes for key in one.keys))


def measure(recipes: Sequence[RecipeRuns], baseline: RecipeRuns | None) -> dict[tuple[str, MetricKey], Measurement]:
    """Estimates every metric of every recipe and its difference to the baseline, by (recipe, metric).

    Recipe and baseline are averaged over all of their own seeds, which have nothing to do with each other: pairing is
    by prompt. A metric that was withheld in one run of a recipe is withheld for the recipe. All recipes against the
    baseline on one metric are one family of tests.
    """
    pool = Pool(recipes)
    columns = {
        (one.recipe, key): over_seeds(values)
        for one in recipes
        for key in metric_keys([one])
        if (values := pool.matrix(one, key)) is not None
    }
    rows = np.stack(list(columns.values())) if columns else np.empty((0, 0))
    estimates = dict(zip(columns, mean_intervals(rows, pool.groups), strict=True))
    tests = _tests(pool, [(one, baseline) for one in recipes if baseline is not None and one is not baseline])
    found: dict[tuple[str, MetricKey], Measurement] = {}
    for one in recipes:
        reference = baseline if one is not baseline else None
        for key in metric_keys([one]):
            tested = tests.get((one.recipe, reference.recipe, key)) if reference is not None else None
            found[one.recipe, key] = _measurement(pool, one, reference, key, estimates.get((one.recipe, key)), tested)
    return found


_Place = tuple[str, str, MetricKey]
"""Recipe, the other one, metric."""


def measure_pairs(
    recipes: Sequence[RecipeRuns],
    measured: Mapping[tuple[str, MetricKey], Measurement],
    keys: Collection[MetricKey] | None = None,
) -> list[PairedRecipes]:
    """Tests every pair of recipes, the later one against the earlier; all pairs on one metric are one family.

    Half of its alpha is for the pairs with the first recipe, the baseline, half for the others: what is asked first is
    whether a method does better than nothing, and many rows shall not make that unanswerable. With `keys` on these
    metrics alone.
    """
    pairs = [(one, other) for place, one in enumerate(recipes) for other in recipes[:place]]
    return [
        PairedRecipes(recipe, other, key, replace(measured[recipe, key], difference=tested.difference, tested=tested))
        for (recipe, other, key), tested in _tests(Pool(recipes), pairs, keys, recipes[0].recipe).items()
    ]


def _shares(family: Sequence[_Place], first: str) -> list[float] | None:
    """Returns each pair's share of alpha: half of it for those with the first recipe; None where all or none are."""
    n_first = sum(other == first for _, other, _ in family)
    if not 0 < n_first < len(family):
        return None
    return [0.5 / n_first if other == first else 0.5 / (len(family) - n_first) for _, other, _ in family]


def _tests(
    pool: Pool,
    pairs: Sequence[tuple[RecipeRuns, RecipeRuns]],
    keys: Collection[MetricKey] | None = None,
    first: str = "",
) -> dict[_Place, Tested]:
    """Returns the tests of recipes against others, by (recipe, other, metric), adjusted metric by metric.

    The pairs with the recipe `first` share half of a family's alpha.
    """
    measured = {one.recipe: metric_keys([one]) for one in {one.recipe: one for one, _ in pairs}.values()}
    if keys is not None:
        measured = {recipe: [key for key in own if key in keys] for recipe, own in measured.items()}
    over_prompts: dict[_Place, Pair] = {}
    of_corpus: dict[_Place, CorpusPair] = {}
    for one, other in pairs:
        for key in measured[one.recipe]:
            place = one.recipe, other.recipe, key
            mine, theirs = pool.matrix(one, key), pool.matrix(other, key)
            if mine is not None and theirs is not None:
                over_prompts[place] = Pair(mine, theirs, one.varies, other.varies)
            elif mine is None and (corpus := pool.corpus_pair(one, other, key)) is not None:
                of_corpus[place] = corpus
    found = dict(zip(of_corpus, compare_corpora(list(of_corpus.values())), strict=True))
    found |= zip(over_prompts, _compared(over_prompts, pool), strict=True)
    families: dict[MetricKey, list[_Place]] = {}
    for place in found:
        families.setdefault(place[2], []).append(place)
    for family in families.values():
        found |= zip(family, adjust([found[place] for place in family], _shares(family, first)), strict=True)
    return found


def _compared(pairs: Mapping[_Place, Pair], pool: Pool) -> list[Tested]:
    """Returns the tests of pairs, in their order, some of one metric at a time."""
    by_metric: dict[MetricKey, list[_Place]] = {}
    for place in pairs:
        by_metric.setdefault(place[2], []).append(place)
    parts = [
        own[start : start + _PAIRS_AT_ONCE]
        for own in by_metric.values()
        for start in range(0, len(own), _PAIRS_AT_ONCE)
    ]
    tested = in_threads(lambda part: compare_pairs([pairs[place] for place in part], pool.groups), parts)
    found: dict[_Place, Tested] = {}
    for part, of_part in zip(parts, tested, strict=True):
        found |= zip(part, of_part, strict=True)
    return [found[place] for place in pairs]


def _measurement(
    pool: Pool,
    one: RecipeRuns,
    reference: RecipeRuns | None,
    key: MetricKey,
    value: Estimate | None,
    tested: Tested | None,
) -> Measurement:
    stored, traits = one.metrics(key), one.traits(key)
    n_scored, n_unscored = sum(m.n_scored for m in stored), sum(m.n_unscored for m in stored)
    if value is None:
        value = pool.whole(one, key)
    elif traits.scale == "log":
        value = exponential(value)
    if traits.between_0_and_1:
        value = value.between_0_and_1()
    difference = tested.difference if tested is not None else None
    if reference is not None and difference is None:
        reason = _withheld(one, key) or _withheld(reference, key) or _other_texts(one, reference, key) or NOT_STORED
        difference = Estimate(None, reason=reason)
    n_cut = sum(m.n_cut for m in stored)
    return Measurement(value, difference, stored[0].direction, n_scored, n_unscored, tested, n_cut=n_cut, traits=traits)


@dataclass(frozen=True, slots=True)
class _Corpus:
    """One metric of the whole corpus, of one recipe."""

    stored: list[StoredMetric]
    seeds: list[tuple[float, tuple[float | None, ...]]]
    """Values and replicates of the seeds that have both."""
    texts: frozenset[object]
    """What it was measured on."""


class Pool:
    """Values of all runs on one list of prompts."""

    def __init__(self, recipes: Iterable[RecipeRuns]) -> None:
        evaluations = [evaluation for one in recipes for _, evaluation in one.runs]
        lists = dict.fromkeys(one.prompt_values[0] for one in evaluations)
        ids = dict.fromkeys(prompt for one in lists for prompt in one)
        self._place = {prompt: i for i, prompt in enumerate(ids)}
        self._places = {one: np.array([self._place[prompt] for prompt in one], dtype=np.int64) for one in lists}
        self._matrices: dict[tuple[str, MetricKey], Matrix | None] = {}
        self._corpora: dict[tuple[str, MetricKey], _Corpus] = {}
        named: dict[str, str] = {}
        for one in evaluations:
            named |= one.record.prompt_groups
        self.groups = numbered(list(ids), named)
        """The number of each prompt's group, (prompts,); None where all are texts of their own."""

    @cached_property
    def _group_sizes(self) -> list[int]:
        """How many prompts each group of the jackknife has."""
        sizes = Counter(jackknife_group(prompt) for prompt in self._place)
        return [sizes[group] for group in range(N_JACKKNIFE_GROUPS)]

    def matrix(self, one: RecipeRuns, key: MetricKey) -> Matrix | None:
        """Returns the values (seeds, prompts), NaN where unmeasured; None where nothing is stored."""
        place = one.recipe, key
        if place not in self._matrices:
            self._matrices[place] = self._read(one, key)
        return self._matrices[place]

    def _read(self, one: RecipeRuns, key: MetricKey) -> Matrix | None:
        name = str(key)
        if _withheld(one, key) or any(name not in evaluation.prompt_values[1] for _, evaluation in one.runs):
            return None
        values = np.full((len(one.runs), len(self._place)), np.nan)
        for row, (_, evaluation) in zip(values, one.runs, strict=True):
            ids, columns = evaluation.prompt_values
            row[self._places[ids]] = columns[name]
        return values

    def whole(self, one: RecipeRuns, key: MetricKey) -> Estimate:
        """Returns a metric that is no mean over prompts, averaged over seeds."""
        if reason := _withheld(one, key):
            return Estimate(None, reason=reason)
        stored = one.metrics(key)
        scale = one.traits(key).scale
        value, replicates = mean_replicates(stored, scale)
        if replicates is not None:
            estimate = replace(jackknife_interval(value, replicates, self._sizes(stored)), p_value=None)
            return exponential(estimate) if scale == "log" else estimate
        if len(stored) == 1:
            return Estimate(value, stored[0].ci_low, stored[0].ci_high, stored[0].n_scored, reason=stored[0].reason)
        return Estimate(value, reason=NOT_STORED)

    def corpus_pair(self, one: RecipeRuns, reference: RecipeRuns, key: MetricKey) -> CorpusPair | None:
        """Returns a metric that is no mean over prompts on both sides.

        None where one of them has no replicates, or where they were not measured on the same prompts or texts.
        """
        mine, theirs = self._corpus(one, key), self._corpus(reference, key)
        lengths = {len(replicates) for _, replicates in (*mine.seeds, *theirs.seeds)}
        is_whole = len(mine.seeds) == len(one.runs) and len(theirs.seeds) == len(reference.runs)
        if not is_whole or len(lengths) != 1 or len(mine.texts | theirs.texts) != 1:
            return None
        sizes = self._sizes([*mine.stored, *theirs.stored])
        return CorpusPair(mine.seeds, theirs.seeds, sizes, one.varies, reference.varies)

    def _corpus(self, one: RecipeRuns, key: MetricKey) -> _Corpus:
        """Returns what a recipe has of a metric of the whole corpus, the same object each time."""
        if (one.recipe, key) not in self._corpora:
            scale, stored = one.traits(key).scale, one.metrics(key)
            seeds = [
                (scaled(m.value, scale), m.replicates)
                for m in stored
                if m.value is not None and m.replicates is not None
            ]
            self._corpora[one.recipe, key] = _Corpus(stored, seeds, _texts(one, key))
        return self._corpora[one.recipe, key]

    def _sizes(self, stored: Sequence[StoredMetric]) -> list[int] | None:
        """Returns what shares the groups have: as stored, else those of the prompts; None means equal groups."""
        n_groups = len(stored[0].replicates or ())
        sizes = [m.group_sizes for m in stored if m.group_sizes is not None and len(m.group_sizes) == n_groups]
        if len(sizes) == len(stored):
            return [sum(group) for group in zip(*sizes, strict=True)]
        return self._group_sizes if self._place and n_groups == N_JACKKNIFE_GROUPS else None


def _withheld(one: RecipeRuns, key: MetricKey) -> str | None:
    """Returns why a recipe has no value of a metric, None where it has one."""
    for run, evaluation in one.runs:
        stored = evaluation.metrics.get(key)
        if stored is None or stored.value is None:
            return f"seed {run.status.seed}: {(stored.reason if stored else None) or 'not measured'}"
    return None


def _other_texts(one: RecipeRuns, reference: RecipeRuns, key: MetricKey) -> str | None:
    """Returns why a metric of the whole corpus cannot be compared: it was measured on unequal texts; None where not."""
    condition = one.traits(key).condition
    said = condition.replace("_", " ") if condition else "prompts"
    is_same = len(_texts(one, key) | _texts(reference, key)) == 1
    return None if is_same else f"the two sides were not measured on the same {said}"


def _texts(one: RecipeRuns, key: MetricKey) -> frozenset[object]:
    """Returns what a metric of the whole corpus was measured on: one thing where that was the same for each seed."""
    evaluations = [evaluation for _, evaluation in one.runs]
    if condition := one.traits(key).condition:
        return frozenset(json.dumps(each.record.comparability.get(condition), sort_keys=True) for each in evaluations)
    return frozenset(frozenset(ids) for ids in {each.prompt_values[0] for each in evaluations})
