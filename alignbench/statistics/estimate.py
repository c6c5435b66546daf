"""What a statistic says: a number, its interval, and a verdict on a difference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from alignbench.records import Direction

Verdict = Literal["better", "worse", "different", "not distinguishable", "not tested"]
ALPHA = 0.05
"""Two-sided level of every test; intervals cover 1 - ALPHA."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval. Where there is no interval, `reason` says why."""

    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = 0
    """Measured prompts, or for a jackknife the groups that hold any."""
    p_value: float | None = None
    """Two-sided, of the hypothesis that the true value is zero; meant for differences."""
    reason: str | None = None
    p_adjusted: float | None = None
    """`p_value` adjusted for the family of tests that it belongs to; None outside of a family."""

    def adjusted(self, p: float | None) -> Estimate:
        """Returns the estimate with its adjusted p."""
        return Estimate(self.value, self.ci_low, self.ci_high, self.n, self.p_value, self.reason, p)

    def between_0_and_1(self) -> Estimate:
        """Returns the estimate of what cannot lie elsewhere: an interval ends there."""
        low = None if self.ci_low is None else max(0.0, self.ci_low)
        high = None if self.ci_high is None else min(1.0, self.ci_high)
        return replace(self, ci_low=low, ci_high=high)


def verdict(difference: Estimate, direction: Direction) -> Verdict | None:
    """Returns what a difference to the baseline means; None where there is no difference to judge.

    The adjusted p decides where there is one. Of a difference that could not be tested (too few prompts) `reason` says
    why.
    """
    if difference.value is None:
        return None
    p = difference.p_value if difference.p_adjusted is None else difference.p_adjusted
    if p is None:
        return "not tested"
    if p > ALPHA:
        return "not distinguishable"
    if direction == "none":
        return "different"
    return "better" if (difference.value < 0) == (direction == "lower") else "worse"
