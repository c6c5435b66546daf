"""Percentile bootstrap of means over prompts.

Prompts are drawn with replacement, all columns with the same draws, so that ten runs cost little more than one.
With B = 9999 resamples the ends of the 95 % interval are the 250th and the 9750th smallest resampled means, and

    p = 2 min(#{m* <= 0} + 1, #{m* >= 0} + 1) / (B + 1)

counts the same resamples (Davison and Hinkley, Bootstrap Methods and their Application, 1997, sections 4.4 and 5.2.1).
So p <= 0.05 exactly where the interval excludes zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alignbench.statistics.estimate import ALPHA, Estimate

N_RESAMPLES = 9999
MIN_PROMPTS = 10
"""Below this many prompts resampling shows far too narrow an interval: two prompts that agree would be a proof."""

_RANK = round((N_RESAMPLES + 1) * ALPHA / 2)
_SEED = 20_231
_BLOCK = 1 << 22
"""Counts held in memory at a time, so that 100,000 prompts do not need gigabytes."""
_ROUNDING = 1e-12
"""Relative size below which a number is rounding error of zero."""

Columns = NDArray[np.float64]


def mean_interval(values: Sequence[float] | Columns) -> Estimate:
    """Returns the mean over prompts with its interval. NaN means: this prompt could not be measured."""
    return resample_means(np.asarray(values, dtype=np.float64)[:, None])[0]


def paired_difference(values: Sequence[float] | Columns, baseline: Sequence[float] | Columns) -> Estimate:
    """Returns the mean of `values - baseline` prompt by prompt, with interval and p; both in the same prompt order."""
    return mean_interval(np.asarray(values, dtype=np.float64) - np.asarray(baseline, dtype=np.float64))


def resample_means(columns: Columns) -> list[Estimate]:
    """Returns one estimate per column of an array (prompts, columns); a column's mean is over its measured prompts."""
    measured = np.isfinite(columns)
    filled = np.where(measured, columns, 0.0)
    n = measured.sum(axis=0)
    scale = np.abs(filled).max(axis=0, initial=0.0)
    span = np.where(measured, columns, -np.inf).max(axis=0, initial=-np.inf) - np.where(measured, columns, np.inf).min(
        axis=0, initial=np.inf
    )
    constant = span <= _ROUNDING * scale
    means = filled.sum(axis=0) / np.maximum(n, 1)
    resampled = (n >= MIN_PROMPTS) & ~constant
    low, high, p = _interval_and_p(filled[:, resampled], measured[:, resampled], means[resampled], scale[resampled])
    place = np.cumsum(resampled) - 1
    return [
        Estimate(float(means[j]), float(low[i]), float(high[i]), int(n[j]), float(p[i]))
        if resampled[j]
        else _without_resampling(float(means[j]), int(n[j]), bool(constant[j]))
        for j, i in enumerate(place)
    ]


def _without_resampling(mean: float, n: int, is_constant: bool) -> Estimate:
    if n == 0:
        return Estimate(None, reason="no prompt was measured")
    if n < MIN_PROMPTS:
        return Estimate(mean, n=n, reason=f"{n} measured prompts, an interval needs {MIN_PROMPTS}")
    assert is_constant
    if mean == 0.0:
        return Estimate(mean, n=n, p_value=1.0, reason="zero on every prompt")
    return Estimate(mean, n=n, p_value=sign_test_p(n), reason="the same value on every prompt")


def sign_test_p(n: int) -> float:
    """Returns two-sided p of n prompts that all move the same way, but no smaller than resampling could show."""
    return max(2.0 ** (1 - n), 2 / (N_RESAMPLES + 1))


def _interval_and_p(
    filled: Columns, measured: NDArray[np.bool_], means: Columns, scale: Columns
) -> tuple[Columns, ...]:
    """Returns (low, high, p), each (columns,). `filled` has zeros where a prompt was not measured."""
    n_prompts, n_columns = filled.shape
    if n_columns == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    gaps = ~measured.all(axis=0)
    drawn = np.empty((n_columns, N_RESAMPLES))
    rng = np.random.default_rng(_SEED)
    start = 0
    while start < N_RESAMPLES:
        stop = min(N_RESAMPLES, start + max(1, _BLOCK // n_prompts))
        counts = draw_counts(rng, stop - start, n_prompts)
        n_drawn = np.full((n_columns, stop - start), float(n_prompts))
        if gaps.any():
            n_drawn[gaps] = (counts @ measured[:, gaps]).T
        sums = (counts @ filled).T
        # A resample without a single measured prompt is next to impossible from ten on; it counts as the mean.
        drawn[:, start:stop] = np.where(n_drawn > 0, sums / np.maximum(n_drawn, 1), means[:, None])
        start = stop
    drawn[np.abs(drawn) <= _ROUNDING * scale[:, None]] = 0.0
    n_below = (drawn <= 0).sum(axis=1)
    n_above = (drawn >= 0).sum(axis=1)
    p = np.minimum(1.0, 2 * (np.minimum(n_below, n_above) + 1) / (N_RESAMPLES + 1))
    ranked = np.partition(drawn, (_RANK - 1, N_RESAMPLES - _RANK), axis=1)
    return ranked[:, _RANK - 1], ranked[:, N_RESAMPLES - _RANK], p


def draw_counts(rng: np.random.Generator, n_resamples: int, n_prompts: int) -> Columns:
    """Returns how often each prompt is drawn in each resample, (resamples, prompts), rows summing to `n_prompts`."""
    drawn = rng.integers(0, n_prompts, size=(n_resamples, n_prompts))
    drawn += np.arange(n_resamples)[:, None] * n_prompts
    return (
        np.bincount(drawn.ravel(), minlength=n_resamples * n_prompts).reshape(n_resamples, n_prompts).astype(np.float64)
    )
