"""Verdicts from published tables: a mean, a standard deviation and a count, nothing per prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass

from alignbench.statistics.estimate import ALPHA, Estimate


@dataclass(frozen=True, slots=True)
class Summary:
    """One cell of a published table."""

    mean: float
    variance: float
    """Sample variance of single values, divisor n - 1."""
    n: int

    def estimate(self) -> Estimate:
        """Returns the mean with its t interval."""
        return _estimate(self.mean, self.variance / self.n, self.n - 1, self.n)

    def minus(self, baseline: Summary) -> Estimate:
        """Returns the difference of two means with interval and p by Welch's test (Biometrika 34, 1947).

        A table does not say how values pair up. If both were measured on the same prompts a paired test would usually
        be sharper: p is then too large rather than too small.
        """
        mine, theirs = self.variance / self.n, baseline.variance / baseline.n
        parts = mine**2 / (self.n - 1) + theirs**2 / (baseline.n - 1)
        df = (mine + theirs) ** 2 / parts if parts > 0 else 1.0
        return _estimate(self.mean - baseline.mean, mine + theirs, df, self.n + baseline.n)


def from_summary(mean: float, std: float, n: int, ddof: int = 0) -> Summary:
    """Reads a cell of a published table.

        before, after = from_summary(0.1699, 0.3033, 400), from_summary(0.1510, 0.2798, 400)
        after.minus(before)        # -0.0189, p = 0.36: not distinguishable

    Args:
        mean: of the single values.
        std: their standard deviation.
        n: how many values there were.
        ddof: what was taken off n in the divisor of `std`; 0 is numpy's habit, 1 that of pandas and R.

    Raises:
        ValueError: Fewer than two values, or numbers that no values could have.
    """
    if n < 2:
        raise ValueError(f"n: got {n}, expected at least 2: one value says nothing about its spread")
    if not (math.isfinite(mean) and math.isfinite(std) and std >= 0):
        raise ValueError(f"got mean {mean} and std {std}, expected finite numbers and no negative std")
    if ddof not in (0, 1):
        raise ValueError(f"ddof: got {ddof}, expected 0 or 1")
    return Summary(mean, std**2 * n / (n - 1) if ddof == 0 else std**2, n)


def _estimate(value: float, variance: float, df: float, n: int) -> Estimate:
    from scipy.special import stdtr, stdtrit

    if variance == 0:
        return Estimate(value, n=n, reason="no spread was reported")
    error = math.sqrt(variance)
    half = float(stdtrit(df, 1 - ALPHA / 2)) * error
    return Estimate(value, value - half, value + half, n, 2 * float(stdtr(df, -abs(value) / error)))
