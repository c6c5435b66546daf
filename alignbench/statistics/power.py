"""What a design could have seen, and what would settle the question.

The smallest true difference that gets a verdict in 80 % of repetitions (the minimum detectable effect) follows from the
components of variance. A repetition draws D normal around the truth with variance v, and finds its own spread of
seeds; it calls D where |D| passes the half-width h of its own interval:

    power(d) = E_x [ Phi( (d - h(m x / f)) / sqrt(v) ) ],    x chi-squared with f degrees of freedom (see `crossed`).

The root of a variance from few seeds is too small on average, and a stated effect with it; dividing by
c4 = sqrt(2 / df) Gamma((df + 1) / 2) / Gamma(df / 2) takes that out (Holtzman 1950). In a family of k tests a single
true difference has to pass alpha / k, the first step of Holm's procedure, and that level is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from alignbench.statistics.crossed import Components, Spread, components, quadrature
from alignbench.statistics.estimate import ALPHA

POWER = 0.8
MAX_PROMPTS = 1_000_000
MAX_SEEDS = 1_000
"""Beyond these nobody goes: the answer is then that more of them cannot settle the question."""
_POINTS = 24


@dataclass(frozen=True, slots=True)
class Settlement:
    """What would show a true difference of a given size at 80 % power."""

    prompts: int | None
    """Prompts needed with the same seeds; None: more prompts cannot settle this."""
    seeds: int | None
    """Seeds of each trained recipe needed with the same prompts; None: more seeds cannot settle this."""


def minimum_detectable_effect(parts: Components, n_tests: int = 1) -> float:
    """Returns the true difference that this design finds in 80 % of repetitions, in the metric's unit.

    Of the method and of these runs, the one that needs more: a verdict takes the larger p of both.
    """
    runs = parts.of_these_runs
    return max(_detectable(one, ALPHA / n_tests) / _c4(one.df) for one in (parts, runs))


def settle(parts: Components, difference: float, n_tests: int = 1) -> Settlement:
    """Returns what would show a true difference as large as `difference` in 80 % of repetitions."""
    target, alpha = abs(difference), ALPHA / n_tests
    if target == 0.0:
        return Settlement(None, None)

    def with_prompts(n: int) -> float:
        return _detectable_by_both(more_prompts(parts, n), alpha)

    def with_seeds(n: int) -> float:
        return _detectable_by_both(more_seeds(parts, n), alpha)

    seeds = smallest_count(with_seeds, target, MAX_SEEDS) if parts.seeds > 0 else None
    return Settlement(smallest_count(with_prompts, target, MAX_PROMPTS), seeds)


def more_prompts(parts: Components, n_prompts: float) -> Components:
    """Returns the components that a design with another number of prompts would have."""
    ratio = parts.n_prompts / n_prompts
    # The larger the residual's share, the more the seeds' part owes to few prompts; what is left are the seeds.
    arms = [
        replace(one, seeds=max(0.0, one.seeds - one.residual) + one.residual * ratio, residual=one.residual * ratio)
        for one in parts.arms
    ]
    return components(parts.of_these_runs.prompts * ratio, n_prompts, arms)


def more_seeds(parts: Components, n_seeds: int) -> Components:
    """Returns the components that a design with this number of seeds on each varying side would have."""
    residual = sum(one.residual / one.n_seeds for one in parts.arms)
    arms = [replace(one, n_seeds=n_seeds) for one in parts.arms]
    runs = parts.of_these_runs.prompts - residual + sum(one.residual / n_seeds for one in arms)
    return components(max(0.0, runs), parts.n_prompts, arms)


def _detectable_by_both(parts: Components, alpha: float) -> float:
    return max(_detectable(one, alpha) for one in (parts, parts.of_these_runs))


def _detectable(parts: Components, alpha: float) -> float:
    """Returns the true difference of 80 % power, without correction for the noise in the components."""
    from scipy.special import gammaincinv, ndtr, ndtri

    error = math.sqrt(parts.variance)
    if error == 0.0:
        return 0.0
    nodes, weights = quadrature(_POINTS)
    shares = gammaincinv(parts.seeds_df / 2, nodes) * 2 / parts.seeds_df
    halves = Spread.of(parts, np.asarray(parts.seeds * shares, dtype=np.float64)).half_widths(alpha)
    if len(halves) < _POINTS or not parts.seeds:
        return float(halves[0]) + float(ndtri(POWER)) * error
    low, high = 0.0, float(halves.max()) + 3 * error
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        power = float(ndtr((middle - halves) / error) @ weights)
        low, high = (middle, high) if power < POWER else (low, middle)
    return high


def _c4(df: float) -> float:
    """Returns the mean of sqrt(chi-squared / df), close to 1 - 1 / (4 df)."""
    return math.sqrt(2 / df) * math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2))


def smallest_count(detectable: Callable[[int], float], target: float, most: int) -> int | None:
    """Returns the smallest count from 2 whose detectable difference is at most the target; None where `most` is not.

    Detectable differences fall with the count. Near the answer their squares are nearly linear in 1 / count, so the
    next count to try is where a line through both ends meets the target; every third one halves the ratio of the ends.
    """
    low, high, at_low, at_high, n_tried = 2, most, math.inf, detectable(most), 0
    if at_high > target:
        return None
    while low < high:
        middle = math.isqrt(low * high)
        if n_tried % 3 and high <= 4 * low and math.inf > at_low > at_high:
            share = (target**2 - at_high**2) / (at_low**2 - at_high**2)
            middle = math.ceil(1 / (1 / high + share * (1 / (low - 1) - 1 / high)))
        middle = min(max(middle, low), high - 1)
        found = detectable(middle)
        if found <= target:
            high, at_high = middle, found
        else:
            low, at_low = middle + 1, found
        n_tried += 1
    return high
