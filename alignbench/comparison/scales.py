"""Values of metrics that are measured as logarithms, and shown as their exponentials."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from alignbench.results.schema import StoredMetric
from alignbench.statistics.estimate import Estimate

_MAX_LOG = math.log(sys.float_info.max)


def scaled(value: float, scale: str) -> float:
    """Returns a value on the scale of its replicates."""
    return math.log(value) if scale == "log" else value


def mean_replicates(stored: Sequence[StoredMetric], scale: str) -> tuple[float, list[float | None] | None]:
    """Returns the means over seeds of values and of replicates; a group counts where every seed has it.

    Where there are replicates, the value is on their scale.
    """
    seeds = [m.replicates for m in stored if m.replicates is not None]
    if len(seeds) < len(stored) or len({len(one) for one in seeds}) != 1:
        return float(np.mean([m.value for m in stored if m.value is not None])), None
    value = float(np.mean([scaled(m.value, scale) for m in stored if m.value is not None]))
    groups = np.ascontiguousarray(np.array(seeds, dtype=np.float64).T).mean(axis=1).tolist()
    return value, [None if math.isnan(one) else one for one in groups]


def exponential(estimate: Estimate) -> Estimate:
    """Returns an estimate of a mean logarithm as one of the geometric mean."""

    def exp(value: float | None) -> float | None:
        return None if value is None or value > _MAX_LOG else math.exp(value)

    if estimate.value is not None and estimate.value > _MAX_LOG:
        return Estimate(None, n=estimate.n, reason=f"its logarithm, {estimate.value:.4g}, is out of all range")
    return replace(estimate, value=exp(estimate.value), ci_low=exp(estimate.ci_low), ci_high=exp(estimate.ci_high))
