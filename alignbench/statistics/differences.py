"""Every test of a comparison: two named estimands, families, power. What `compare` calls, and the calibration too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from alignbench.statistics.crossed import (
    MIN_SEEDS,
    Arm,
    Components,
    Matrix,
    Side,
    components,
    differences,
    estimates,
    no_surer,
    parts_of_method,
)
from alignbench.statistics.estimate import Estimate
from alignbench.statistics.jackknife import interval, jackknife_variances
from alignbench.statistics.multiplicity import holm
from alignbench.statistics.power import Settlement, minimum_detectable_effect, settle
from alignbench.statistics.prompt_means import (
    Groups,
    mean_intervals,
    n_moved,
    no_surer_than_signs,
    t_quantile,
    variances_of_means,
)

_BLOCK = 512
"""Pairs at a time."""
Estimand = Literal["these runs", "the method"]
Seeds = Sequence[tuple[float, Sequence[float | None]]]
"""Of a metric of the whole corpus, per seed: the value, and the values less one prompt group."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Values of a metric that is a mean over prompts, of a recipe and of the one it is compared with."""

    values: Matrix
    """(seeds, prompts), NaN where unmeasured."""
    baseline: Matrix
    """(seeds, prompts), the same prompts in the same order."""
    varies: bool = True
    """False where seeds share one policy, as without training."""
    baseline_varies: bool = True


@dataclass(frozen=True, slots=True)
class CorpusPair:
    """A metric of the whole corpus, with its replicates."""

    values: Seeds
    baseline: Seeds
    group_sizes: Sequence[int] | None = None
    varies: bool = True
    baseline_varies: bool = True


@dataclass(frozen=True, slots=True)
class Tested:
    """A difference, for these runs and, where seeds allow it, for the method."""

    these_runs: Estimate
    """Uncertainty over prompts alone."""
    method: Estimate | None
    """Uncertainty over prompts and seeds; None with a single seed of what is trained."""
    parts: Components | None = None
    """Of the variance of the estimand below; None where there is no interval."""
    n_tests: int = 1
    """Tests in the family."""

    @property
    def estimand(self) -> Estimand:
        """What the verdict is about."""
        return "these runs" if self.method is None else "the method"

    @property
    def difference(self) -> Estimate:
        """The difference that the verdict is taken from."""
        return self.these_runs if self.method is None else self.method

    def detectable(self) -> float | None:
        """Returns the true difference that this design finds in 80 % of repetitions, alone in its family."""
        return None if self.parts is None else minimum_detectable_effect(self.parts, self.n_tests)

    def settlement(self) -> Settlement | None:
        """Returns what would show a true difference as large as the measured one; prompts in groups as large as now."""
        value = self.difference.value
        if self.parts is None or value is None:
            return None
        needed = settle(self.parts, value, self.n_tests)
        if needed.prompts is None:
            return needed
        return replace(needed, prompts=math.ceil(needed.prompts * self.these_runs.n / self.parts.n_prompts))


def compare_pairs(pairs: Sequence[Pair], groups: Groups | None = None) -> list[Tested]:
    """Returns the differences of means over prompts, which are the same for every pair.

    `groups` (prompts,) numbers the groups of prompts that are variants of one text; None: each prompt is its own. The
    method is the estimand where each side that varies has two seeds or more.
    """
    known: dict[tuple[int, bool], Side] = {}

    def side(values: Matrix, varies: bool) -> Side:
        place = id(values), varies  # of a matrix that `pairs` hold on to
        if place not in known:
            known[place] = Side.of(values, varies, groups)
        return known[place]

    sides = [(side(pair.values, pair.varies), side(pair.baseline, pair.baseline_varies)) for pair in pairs]
    begun = []
    for start in range(0, len(pairs), _BLOCK):
        begun += _begun(sides[start : start + _BLOCK], pairs[start : start + _BLOCK], groups)
    unfinished = [one for one in begun if isinstance(one, _OfMethod)]
    found = iter(estimates([one.value for one in unfinished], [one.parts for one in unfinished]))
    return [one.tested(next(found)) if isinstance(one, _OfMethod) else one for one in begun]


@dataclass(frozen=True, slots=True)
class _OfMethod:
    """A test of two methods before its estimate, which is made together with those of others."""

    value: float
    over_prompts: Estimate
    n_moved: int
    unit: str
    parts: Components

    def tested(self, estimated: Estimate) -> Tested:
        runs = no_surer_than_signs(self.over_prompts, self.n_moved, self.unit)
        method = no_surer_than_signs(no_surer(estimated, self.over_prompts), self.n_moved, self.unit)
        return Tested(runs, method, replace(self.parts, runs=_as_far_as(runs, self.parts.of_these_runs)))


def _begun(
    sides: Sequence[tuple[Side, Side]], pairs: Sequence[Pair], groups: Groups | None
) -> list[Tested | _OfMethod]:
    """Begins the tests of pairs: what is the same for each is done for all of them at once."""
    changes = differences([mine for mine, _ in sides], [theirs for _, theirs in sides])
    each = mean_intervals(changes, groups), variances_of_means(changes, groups), n_moved(changes, groups)
    unit = "prompt" if groups is None else "group of prompts"
    return [_begun_one(*one, unit) for one in zip(sides, pairs, *each, strict=True)]


def _begun_one(
    sides: tuple[Side, Side], pair: Pair, over_prompts: Estimate, variance: tuple[float, float], moved: int, unit: str
) -> Tested | _OfMethod:
    is_method = has_method(pair.varies, len(pair.values), pair.baseline_varies, len(pair.baseline))
    if over_prompts.value is None and all(np.isfinite(side.averages).any() for side in sides):
        nothing = Estimate(None, reason="of the prompts that were measured on either side, none in common")
        return Tested(nothing, nothing if is_method else None)
    runs = no_surer_than_signs(over_prompts, moved, unit)
    if is_method:
        parts = parts_of_method(sides, over_prompts, *variance)
        if isinstance(parts, Estimate):
            return Tested(runs, no_surer_than_signs(parts, moved, unit))
        assert over_prompts.value is not None
        return _OfMethod(over_prompts.value, over_prompts, moved, unit, parts)
    if runs.ci_low is None:
        return Tested(runs, None)
    parts = Components(*variance)
    return Tested(runs, None, replace(parts, prompts=_as_far_as(runs, parts)))


def _as_far_as(runs: Estimate, parts: Components) -> float:
    """Returns the variance of a t interval that reaches as far towards zero as these runs' own, longer where skewed."""
    if runs.value is None or runs.ci_low is None or runs.ci_high is None:
        return parts.prompts
    half = runs.ci_high - runs.value if runs.value < 0 else runs.value - runs.ci_low
    return max(parts.prompts, (half / t_quantile(parts.n_prompts - 1)) ** 2)


def compare_corpora(pairs: Sequence[CorpusPair]) -> list[Tested]:
    """Returns the differences of metrics of the whole corpus, by the jackknife over prompt groups.

    For the method the jackknife's variances take the place of those over prompts in `crossed`: of the averaged
    difference, and of each seed's distance from the average of its recipe as the residual.
    """
    sides = _CorpusSides()
    alike: dict[object, list[int]] = {}
    for place, pair in enumerate(pairs):
        sizes = None if pair.group_sizes is None else tuple(pair.group_sizes)
        alike.setdefault((sizes, len(pair.values[0][1])), []).append(place)
    by_place: dict[int, Tested | _OfMethod] = {}
    for places in alike.values():
        by_place |= zip(places, _corpora_begun([pairs[place] for place in places], sides), strict=True)
    begun = [by_place[place] for place in range(len(pairs))]
    unfinished = [one for one in begun if isinstance(one, _OfMethod)]
    found = iter(estimates([one.value for one in unfinished], [one.parts for one in unfinished]))
    return [
        Tested(one.over_prompts, no_surer(next(found), one.over_prompts), one.parts)
        if isinstance(one, _OfMethod)
        else one
        for one in begun
    ]


def _corpora_begun(pairs: Sequence[CorpusPair], sides: _CorpusSides) -> list[Tested | _OfMethod]:
    """Begins the tests of pairs with as many replicates and the same sizes of groups."""
    both = [(sides.averaged(pair.values), sides.averaged(pair.baseline)) for pair in pairs]
    changes = [mine - theirs for (mine, _), (theirs, _) in both]
    replicates = np.stack([mine for (_, mine), _ in both]) - np.stack([theirs for _, (_, theirs) in both])
    sizes = pairs[0].group_sizes
    variances, shares = jackknife_variances(changes, replicates, sizes), _in_shares(sizes)
    return [
        _corpus_begun(pair, change, *variance, sides, shares)
        for pair, change, variance in zip(pairs, changes, variances, strict=True)
    ]


def _in_shares(sizes: Sequence[int] | None) -> tuple[int, ...] | None:
    """Returns sizes of groups that have no divisor in common: only their shares matter."""
    if sizes is None:
        return None
    parts = math.gcd(*sizes) or 1
    return tuple(size // parts for size in sizes)


def _corpus_begun(
    pair: CorpusPair,
    change: float,
    variance: float | None,
    n_groups: int,
    sides: _CorpusSides,
    shares: tuple[int, ...] | None,
) -> Tested | _OfMethod:
    runs = interval(change, variance, n_groups)
    is_method = has_method(pair.varies, len(pair.values), pair.baseline_varies, len(pair.baseline))
    if variance is None:
        return Tested(runs, runs if is_method else None)
    if not is_method:
        return Tested(runs, None, Components(variance, n_groups) if variance > 0 else None)
    arms = [
        sides.arm(pair.values, pair.varies, shares),
        sides.arm(pair.baseline, pair.baseline_varies, shares),
    ]
    return _OfMethod(change, runs, 0, "", components(variance, n_groups, arms))


def adjust(family: Sequence[Tested], weights: Sequence[float] | None = None) -> list[Tested]:
    """Returns the tests of one family with Holm-adjusted p, each estimand by itself; weights are those of `holm`."""
    runs = holm([one.these_runs.p_value for one in family], weights)
    shown = holm([one.difference.p_value for one in family], weights)
    shares = [1.0] * len(family) if weights is None else weights
    whole = math.fsum(share for one, share in zip(family, shares, strict=True) if one.difference.p_value is not None)
    return [
        Tested(
            one.these_runs.adjusted(adjusted if one.method is None else mine),
            None if one.method is None else one.method.adjusted(adjusted),
            one.parts,
            max(1, round(whole / share)),
        )
        for one, share, mine, adjusted in zip(family, shares, runs, shown, strict=True)
    ]


def has_method(varies: bool, n_seeds: int, baseline_varies: bool, n_baseline_seeds: int) -> bool:
    """True where the spread of seeds can be estimated on every side that has one, and some side has one."""
    sides = [n for n, side_varies in ((n_seeds, varies), (n_baseline_seeds, baseline_varies)) if side_varies]
    return bool(sides) and min(sides) >= MIN_SEEDS


class _CorpusSides:
    """What recipes bring to the pairs that they are part of, each found once; of lists that the pairs hold on to."""

    def __init__(self) -> None:
        self._averages: dict[int, tuple[float, Matrix]] = {}
        self._arms: dict[object, Arm] = {}

    def averaged(self, seeds: Seeds) -> tuple[float, Matrix]:
        """Returns the means over seeds of values and of replicates; a group counts where every seed has it."""
        if id(seeds) not in self._averages:
            means = np.ascontiguousarray(_replicates(seeds).T).mean(axis=1)
            self._averages[id(seeds)] = float(np.mean([value for value, _ in seeds])), means
        return self._averages[id(seeds)]

    def arm(self, seeds: Seeds, varies: bool, shares: tuple[int, ...] | None) -> Arm:
        """Returns the spread of the seeds."""
        place = id(seeds), varies, shares
        if place not in self._arms:
            self._arms[place] = self._arm(seeds, varies, shares)
        return self._arms[place]

    def _arm(self, seeds: Seeds, varies: bool, shares: tuple[int, ...] | None) -> Arm:
        if len(seeds) < MIN_SEEDS:
            return Arm(len(seeds), 0.0, 0.0, varies)
        value, replicates = self.averaged(seeds)
        own = jackknife_variances([one - value for one, _ in seeds], _replicates(seeds) - replicates, shares)
        residual = sum(one for one, _ in own if one is not None) / (len(seeds) - 1)
        return Arm(len(seeds), float(np.var([one for one, _ in seeds], ddof=1)), residual, varies)


def _replicates(seeds: Seeds) -> Matrix:
    """Returns replicates (seeds, groups), NaN where a seed has none."""
    return np.array([left for _, left in seeds], dtype=np.float64)
