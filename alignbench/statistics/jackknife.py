"""Delete-one-group jackknife for metrics of a whole corpus, which are no mean over prompts.

Resampling prompts repeats texts, and a repeated text has no new n-grams: a bootstrap of distinct-n is centred on the
wrong number. Here each group of prompts is left out once. Groups come from a hash of the prompt id, so their sizes
differ, and a metric that depends on the size of the corpus would vary for that reason alone; the weights of the
delete-m_j jackknife (Busing, Meijer and van der Leeden, Statistics and Computing 9, 1999) take that out:

    h_g = n / m_g,   pseudo_g = h_g theta - (h_g - 1) theta_(g),   theta_J = G theta - sum_g (1 - 1 / h_g) theta_(g)
    variance = (1 / G) sum_g (pseudo_g - theta_J)^2 / (h_g - 1)

With equal groups this is the textbook (G - 1) / G sum_g (theta_(g) - mean)^2. The interval is theta plus and minus the
t quantile with G - 1 degrees of freedom.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alignbench.statistics.estimate import Estimate
from alignbench.statistics.prompt_means import measured_alike, t_quantile

Matrix = NDArray[np.float64]

N_JACKKNIFE_GROUPS = 20
"""Corpus metrics get their uncertainty from deleting one of this many prompt-hash groups at a time."""
MIN_GROUPS = 10
"""Below this many groups with prompts in them there is no interval."""


def jackknife_group(prompt_id: str) -> int:
    """Returns the prompt's group, 0 to 19, from a hash of its id: the same in every run."""
    return int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "big") % N_JACKKNIFE_GROUPS


def jackknife_interval(
    value: float, replicates: Sequence[float | None], group_sizes: Sequence[int] | None = None
) -> Estimate:
    """Returns a corpus metric with its interval.

    Args:
        value: the metric over the whole corpus.
        replicates: the metric with group 0, 1, ... left out; None for a group that holds no prompt.
        group_sizes: prompts in each group, a group of 0 is skipped; None means equal groups.
    """
    [variance] = jackknife_variances([value], np.array([replicates], dtype=np.float64), group_sizes)
    return interval(value, *variance)


def jackknife_variances(
    values: Sequence[float], replicates: Matrix, group_sizes: Sequence[int] | None = None
) -> list[tuple[float | None, int]]:
    """Returns the variance of several corpus metrics over prompts, None with too few groups, and how many there are.

    `replicates` are (metrics, groups), NaN for a group that holds no prompt. Each has the very number that it has
    alone.
    """
    sizes = np.ones(replicates.shape[1], np.int64) if group_sizes is None else np.array(group_sizes, np.int64)
    if len(sizes) != replicates.shape[1]:
        raise ValueError(f"{replicates.shape[1]} replicates, but {len(sizes)} group sizes")
    found: dict[int, tuple[float | None, int]] = {}
    for places, deleted, kept in measured_alike(np.where(sizes > 0, replicates, np.nan), sizes):
        assert kept is not None
        n_groups = len(kept)
        if n_groups < MIN_GROUPS:
            found |= dict.fromkeys(places, (None, n_groups))
            continue
        share = kept / float(kept.sum())
        value = np.array([[values[place]] for place in places])
        pseudo = value / share - (1 / share - 1) * deleted
        centre = n_groups * value - ((1 - share) * deleted).sum(axis=1, keepdims=True)
        variances = ((pseudo - centre) ** 2 / (1 / share - 1)).mean(axis=1)
        found |= {place: (one, n_groups) for place, one in zip(places, variances.tolist(), strict=True)}
    return [found[place] for place in range(len(values))]


def interval(value: float, variance: float | None, n_groups: int) -> Estimate:
    """Returns value with its t interval; a standard error of nothing but rounding gives none."""
    from scipy.special import stdtr

    if variance is None:
        reason = f"{n_groups} groups of prompts have values, a jackknife interval needs {MIN_GROUPS}"
        return Estimate(value, n=n_groups, reason=reason)
    error = math.sqrt(variance)
    if error <= 1e-12 * max(1.0, abs(value)):
        p = 1.0 if abs(value) <= 1e-12 else None
        return Estimate(value, n=n_groups, p_value=p, reason="the same value whichever group is left out")
    half = t_quantile(n_groups - 1) * error
    p = 2 * float(stdtr(n_groups - 1, -abs(value) / error))
    return Estimate(value, value - half, value + half, n_groups, p)
