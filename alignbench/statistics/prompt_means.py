"""Means over prompts: Student's t, corrected for skewness on its hasty side, by groups of prompts where there are any.

With mean m and standard error s / sqrt(n) over n prompts, T = (m - m0) / (s / sqrt(n)) has nearly Student's
distribution with n - 1 degrees of freedom where differences are symmetric, as they are between two runs of one policy.
Where they are skewed T falls short on the side of the long tail and goes too far on the other. Hall's transformation
(Journal of the Royal Statistical Society B 54, 1992), g the sample skewness, takes that out and is monotone:

    H = T + g (T^2 / 3 + 1 / 6) / sqrt(n) + g^2 T^3 / (27 n).

p is the larger of those by T and by H, the interval holds both intervals: so p <= 0.05 exactly where it excludes zero,
and only the side that would be called too easily gives way. For ten exponential differences without a mean T alone
calls 10 % at a level of 0.05, both 6 %.

Prompts of one group (variants of one text) are no independent witnesses. With sums e_g over group g of the distances
from the mean, the variance of the mean is G / (G - 1) sum e_g^2 / n^2 (cluster-robust: Liang and Zeger, Biometrika 73,
1986). Its degrees of freedom are Satterthwaite's where the prompts of a group say the same, h = size / n, Sk = sum h^k:

    df = (S2 (1 + S2) - 2 S3)^2 / (S4 (1 + 4 S2) - 4 S5 + S2^4 + 2 S3^2 - 4 S2^2 S3),

G - 1 with groups of equal size, and few where most prompts are alone and a few groups are large, as near copies are:
n^2 / sum(size^2) - 1 gives 18 with a hundred prompts alone and five groups of twenty, where 8 % of comparisons without
a difference are then called, and this gives 5. Groups of one prompt each give the textbook formulas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignbench.statistics.estimate import ALPHA, Estimate

MIN_PROMPTS = 10
"""Below this many prompts, or n^2 / sum(size^2) of groups, there is no interval: two that agree would be a proof."""
MIN_SKEWED = 20
"""Below this many a clearly skewed difference has no interval where it leans away from its long tail."""
_SKEWED = 1.0
_ROUNDING = 1e-12
"""Relative size below which a number is rounding error of zero."""
_BLOCK = 512
"""Rows at a time: what a processor keeps at hand."""

Columns = NDArray[np.float64]
Groups = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Collapsed:
    """Values of one metric, a number per group of prompts: their mean is the mean over prompts."""

    values: Columns
    """(..., groups): the mean plus G / n times the sum of the group's distances from it."""
    n_effective: float
    """n^2 / sum(size^2): the number of groups where they are equal."""
    df: float
    """Degrees of freedom of the variance over groups."""


def collapse(values: Columns, groups: Groups | None) -> Collapsed:
    """Returns complete values (..., prompts) by group; `groups` (prompts,) numbers them, None: each prompt is its own.

    The variance over groups of what is returned, divided by their number, is the cluster-robust variance of the mean.
    """
    n = values.shape[-1]
    if groups is None or n == 0:
        return Collapsed(values, float(n), n - 1.0)
    _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    means = values.mean(axis=-1, keepdims=True)
    sums = np.zeros((len(sizes), *values.shape[:-1]))
    np.add.at(sums, place, np.moveaxis(values - means, -1, 0))
    by_group = means + np.moveaxis(sums, 0, -1) * (len(sizes) / n)
    return Collapsed(by_group, n**2 / float((sizes**2).sum()), degrees_of_freedom(sizes / n))


def degrees_of_freedom(shares: Columns) -> float:
    """Returns df of the module docstring from the share of the prompts that each group has, (groups,)."""
    s2, s3, s4, s5 = (float((shares**k).sum()) for k in (2, 3, 4, 5))
    of_squares = s4 * (1 + 4 * s2) - 4 * s5 + s2**4 + 2 * s3**2 - 4 * s2**2 * s3
    return (s2 * (1 + s2) - 2 * s3) ** 2 / of_squares if len(shares) > 1 else 0.0


def numbered(ids: Sequence[str], groups: Mapping[str, str]) -> Groups | None:
    """Returns the number of each prompt's group, (prompts,); one without a group is its own. None: no groups at all."""
    if not any(one in groups for one in ids):
        return None
    names = [("group", groups[one]) if one in groups else ("prompt", one) for one in ids]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return np.array([places[name] for name in names], dtype=np.int64)


def mean_interval(values: Sequence[float] | Columns, groups: Groups | None = None) -> Estimate:
    """Returns the mean over prompts with its interval. NaN means: this prompt could not be measured."""
    return mean_intervals(np.asarray(values, dtype=np.float64)[None], groups)[0]


def column_means(columns: Columns, groups: Groups | None = None) -> list[Estimate]:
    """Returns one estimate per column of an array (prompts, columns); a column's mean is over its measured prompts."""
    return mean_intervals(columns.T, groups)


def mean_intervals(rows: Columns, groups: Groups | None = None) -> list[Estimate]:
    """Returns `mean_interval` of each row of an array (rows, prompts), with the very numbers that it has alone."""
    found: dict[int, Estimate] = {}
    for places, values, own in measured_alike(rows, groups):
        found |= zip(places, _means(values, own), strict=True)
    return [found[place] for place in range(len(rows))]


def variances_of_means(rows: Columns, groups: Groups | None = None) -> list[tuple[float, float]]:
    """Returns for each row of an array (rows, prompts) the variance of its mean, and the degrees of freedom plus one.

    NaN where fewer than two prompts, or groups of them, are measured.
    """
    found: dict[int, tuple[float, float]] = {}
    for places, values, own in measured_alike(rows, groups):
        by_group = _collapsed_rows(values, own)
        n_groups = by_group.values.shape[1]
        variances = by_group.values.var(axis=1, ddof=1) / n_groups if n_groups > 1 else np.full(len(places), np.nan)
        found |= {place: (one, by_group.df + 1) for place, one in zip(places, variances.tolist(), strict=True)}
    return [found[place] for place in range(len(rows))]


def measured_alike(rows: Columns, beside: Groups | None = None) -> Iterator[tuple[list[int], Columns, Groups | None]]:
    """Yields the places of rows that are measured on the same columns, their values there, and what is `beside` these.

    Args:
        rows: (rows, columns), NaN where nothing was measured.
        beside: (columns,).
    """
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        measured = np.isfinite(block)
        alike: dict[bytes, list[int]] = {}
        for place, bits in enumerate(np.packbits(measured, axis=1)):
            alike.setdefault(bits.tobytes(), []).append(place)
        for places in alike.values():
            there = measured[places[0]]
            values = np.ascontiguousarray(block[places][:, there])  # rows are then summed as they are alone
            yield [start + place for place in places], values, None if beside is None else beside[there]


def _collapsed_rows(values: Columns, groups: Groups | None) -> Collapsed:
    """Returns rows (rows, prompts) by group, in memory one after the other, so that each is summed as it is alone."""
    by_group = collapse(values, groups)
    return replace(by_group, values=np.ascontiguousarray(by_group.values))


def _means(values: Columns, groups: Groups | None) -> list[Estimate]:
    """Returns the estimates of rows (rows, prompts) that are measured on every prompt; changes constant ones."""
    n = values.shape[1]
    if n == 0:
        return [Estimate(None, reason="no prompt was measured")] * len(values)
    is_constant = np.ptp(values, axis=1) <= _ROUNDING * np.abs(values).max(axis=1)
    values[is_constant] = values[is_constant, :1]
    means = values.mean(axis=1)
    means[np.abs(means) <= _ROUNDING * np.abs(values).max(axis=1)] = 0.0
    by_group = _collapsed_rows(values, groups)
    n_groups = by_group.values.shape[1]
    if reason := _too_few(n, n_groups, by_group.n_effective):
        return [Estimate(mean, n=n, reason=reason) for mean in means.tolist()]
    return [
        _constant(one.mean, n, n_groups) if constant else _tested(one, by_group.df, n, n_groups)
        for one, constant in zip(_moments(means, by_group.values), is_constant.tolist(), strict=True)
    ]


def _too_few(n: int, n_groups: int, n_effective: float) -> str | None:
    if n_groups < MIN_PROMPTS:
        return f"{_named(n, n_groups)}, an interval needs {MIN_PROMPTS}"
    if n_effective < MIN_PROMPTS:
        counted = f"{_named(n, n_groups)}, the largest so large that they count as {n_effective:.1f}"
        return f"{counted}, an interval needs {MIN_PROMPTS}"
    return None


def _named(n: int, n_groups: int) -> str:
    groups = "group" if n_groups == 1 else "groups"
    return f"{n} measured prompts" + (f" in {n_groups} {groups}" if n_groups < n else "")


def _constant(mean: float, n: int, n_groups: int) -> Estimate:
    if mean == 0.0:
        return Estimate(mean, n=n, p_value=1.0, reason="zero on every prompt")
    return Estimate(mean, n=n, p_value=sign_test_p(n_groups), reason="the same value on every prompt")


class _Moments(NamedTuple):
    """Of the values of one metric, a number per group of prompts."""

    mean: float
    error: float
    """Of the mean."""
    spread: float
    """Standard deviation, divisor n."""
    third: float
    """Third central moment."""
    largest: float


def _moments(means: Columns, values: Columns) -> Iterator[_Moments]:
    """Yields the moments of rows (rows, groups)."""
    n = values.shape[1]
    distances = values - values.mean(axis=1, keepdims=True)
    squares = (distances * distances).sum(axis=1)
    errors, thirds = np.sqrt(squares / (n - 1)) / n**0.5, (distances**3).mean(axis=1)
    columns = means, errors, np.sqrt(squares / n), thirds, np.abs(values).max(axis=1)
    return map(_Moments, *(column.tolist() for column in columns))


def _tested(one: _Moments, df: float, n: int, n_groups: int) -> Estimate:
    """Returns the mean with interval and p of the module docstring."""
    from scipy.special import stdtr

    if one.error <= _ROUNDING * one.largest:
        reason = "groups of prompts do not differ"
        return Estimate(one.mean, n=n, p_value=1.0 if one.mean == 0 else sign_test_p(n_groups), reason=reason)
    skewness = one.third / one.spread**3
    t = one.mean / one.error
    if n_groups < MIN_SKEWED and abs(skewness) > _SKEWED and skewness * t < 0:
        reason = f"{_named(n, n_groups)} whose values are skewed, an interval needs {MIN_SKEWED}"
        return Estimate(one.mean, n=n, reason=reason)
    most = t_quantile(df)
    lean = skewness / n_groups**0.5
    ends = [most, -most, untransformed(most, lean), untransformed(-most, lean)]
    p = 2 * float(max(stdtr(df, -abs(t)), stdtr(df, -abs(transformed(t, lean)))))
    return Estimate(one.mean, one.mean - max(ends) * one.error, one.mean - min(ends) * one.error, n, min(1.0, p))


@lru_cache(maxsize=64)
def t_quantile(df: float) -> float:
    """Returns how many standard errors a 95 % interval reaches to either side, without any skewness."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - ALPHA / 2))


def transformed(t: float, lean: float) -> float:
    """Returns H of the module docstring; `lean` is g / sqrt(n)."""
    return t + lean * (t**2 / 3 + 1 / 6) + lean**2 * t**3 / 27


def untransformed(h: float, lean: float) -> float:
    """Returns the T whose H is h: H = ((1 + lean T / 3)^3 - 1) / lean + lean / 6."""
    if abs(lean) < 1e-9:
        return h - lean * (h**2 / 3 + 1 / 6)
    return 3 * (float(np.cbrt(1 + lean * (h - lean / 6))) - 1) / lean


def sign_test_p(n: int) -> float:
    """Returns two-sided p of n prompts that all move the same way."""
    return float(2.0 ** (1 - n))


def no_surer_than_signs(estimate: Estimate, n_moved: int, unit: str = "prompt") -> Estimate:
    """Returns the estimate with a p no smaller than the few prompts, or groups of them, that differ at all can give.

    With m of them no rearrangement of signs is rarer than 2^(1 - m). A t takes what it sees for the shape of what it
    has not seen, and where four prompts of 400 differ it sees too little.
    """
    least = sign_test_p(n_moved)
    if n_moved == 0 or estimate.p_value is None or estimate.p_value >= least:
        return estimate
    if least <= ALPHA:
        return replace(estimate, p_value=least)
    reason = f"only {n_moved} {unit}{'s differ' if n_moved > 1 else ' differs'}, too few for an interval"
    return replace(estimate, ci_low=None, ci_high=None, p_value=least, reason=reason)


def n_moved(differences: Columns, groups: Groups | None) -> list[int]:
    """Returns how many prompts, or groups of them, differ at all, of each row (rows, prompts); NaN does not count."""
    moved = np.isfinite(differences) & (differences != 0)
    if groups is None:
        return [int(one) for one in moved.sum(axis=1)]
    return [len(np.unique(groups[row])) for row in moved]
