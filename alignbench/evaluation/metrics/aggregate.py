"""From completions to prompts: the arrays that every metric passes through.

Shapes: n prompts, k completions of each. NaN means: could not be measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignbench.statistics.jackknife import N_JACKKNIFE_GROUPS

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
NO_REPLICATES = (None,) * N_JACKKNIFE_GROUPS


@dataclass(frozen=True, slots=True)
class SetStatistic:
    """A statistic of the whole set of completions that is no mean over prompts."""

    value: float | None
    replicates: tuple[float | None, ...] | None = None
    """The value with hash group 0, 1, ... deleted; None where the group is empty or nothing would be left, and None
    altogether where no interval can be computed."""
    groups: IntArray | None = None
    """The hash group of each prompt, or text, that it was measured on; None: of every prompt."""
    counts: tuple[int, int] = (0, 0)
    """Measured and unmeasured, in completions, prompts or texts: docs/metrics.md."""
    reason: str = ""
    """Why there is no value, or no interval."""


def prompt_means(values: FloatArray) -> FloatArray:
    """Mean over each prompt's measured completions, (n, k) -> (n,); NaN where none was measured."""
    measured = ~np.isnan(values)
    n_measured = measured.sum(axis=1)
    means = np.full(len(values), np.nan)
    np.divide(np.where(measured, values, 0.0).sum(axis=1), n_measured, out=means, where=n_measured > 0)
    return means


def leave_one_group_out(totals: FloatArray) -> FloatArray:
    """Sums over all groups but one: (g,) -> (g,)."""
    return np.asarray(totals.sum() - totals, dtype=np.float64)


def sum_by_group(values: FloatArray, groups: IntArray) -> FloatArray:
    """Sums of (m,) values over the prompt-hash groups (m,): (20,)."""
    return np.bincount(groups, weights=values, minlength=N_JACKKNIFE_GROUPS).astype(np.float64)


def ratio(numerators: FloatArray, denominators: FloatArray, groups: IntArray) -> SetStatistic:
    """Sum over sum of what was measured, with its replicates.

    Args:
        numerators: (m,), NaN where unmeasured; its denominator then does not count.
        denominators: (m,).
        groups: (m,), the hash group of each.
    """
    measured = ~np.isnan(numerators)
    present = sum_by_group(measured, groups)
    above, below = (sum_by_group(np.where(measured, part, 0.0), groups) for part in (numerators, denominators))
    replicates = tuple(
        float(rest / size) if here and size > 0 else None
        for here, rest, size in zip(present, leave_one_group_out(above), leave_one_group_out(below), strict=True)
    )
    return SetStatistic(float(above.sum() / below.sum()) if below.sum() > 0 else None, replicates)


def pooled_mean(values: FloatArray, groups: IntArray) -> SetStatistic:
    """Mean of all values that are not NaN, whatever their prompt, with its replicates.

    Args:
        values: (m,).
        groups: (m,), the prompt-hash group of each value's prompt.
    """
    return ratio(values, np.ones_like(values), groups)


def counts(values: FloatArray) -> tuple[int, int]:
    """Returns how many values were measured and how many were not."""
    n_unmeasured = int(np.isnan(values).sum())
    return values.size - n_unmeasured, n_unmeasured
