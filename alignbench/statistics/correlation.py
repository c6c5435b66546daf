"""Spearman's rank correlation, and what it says about the sign of the true one."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

_INFLATION = 1.06
"""Of the variance of Fisher's z for ranks: Fieller, Hartley and Pearson, "Tests for rank correlation coefficients. I",
Biometrika 44 (1957)."""


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Spearman's rank correlation of two columns (n,), ties given their mean rank; None where one of them is constant.

    Rows in which either is NaN are left out.
    """
    both = ~(np.isnan(a) | np.isnan(b))
    if both.sum() < 2:
        return None
    rank_a, rank_b = _ranks(a[both]), _ranks(b[both])
    if np.ptp(rank_a) == 0 or np.ptp(rank_b) == 0:
        return None
    return float(np.corrcoef(rank_a, rank_b)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[places]
    return ranks


def correlation_limits(value: float, n: int, alpha: float) -> tuple[float, float]:
    """The interval of a rank correlation that covers 1 - alpha, by Fisher's z.

    Args:
        value: The correlation.
        n: Independent rows, at least 4; the interval is rough below 10.
        alpha: What it leaves out, half of it on each side.
    """
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, value)))
    margin = NormalDist().inv_cdf(1 - alpha / 2) * math.sqrt(_INFLATION / (n - 3))
    return math.tanh(z - margin), math.tanh(z + margin)


def correlation_p(value: float, n: int) -> float:
    """How probable a rank correlation of this size or larger is where the true one is zero, by Fisher's z."""
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, value)))
    return 1 - NormalDist().cdf(z * math.sqrt((n - 3) / _INFLATION))
