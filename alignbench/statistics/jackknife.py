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
from collections.abc import Sequence

import numpy as np

from alignbench.statistics.estimate import ALPHA, Estimate

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
    variance, n_groups = jackknife_variance(value, replicates, group_sizes)
    if variance is None:
        reason = f"{n_groups} groups of prompts have values, a jackknife interval needs {MIN_GROUPS}"
        return Estimate(value, n=n_groups, reason=reason)
    return _interval(value, float(np.sqrt(variance)), n_groups)


def jackknife_variance(
    value: float, replicates: Sequence[float | None], group_sizes: Sequence[int] | None = None
) -> tuple[float | None, int]:
    """Returns the variance of a corpus metric over prompts, None with too few groups, and the number of groups."""
    sizes = [1] * len(replicates) if group_sizes is None else list(group_sizes)
    if len(sizes) != len(replicates):
        raise ValueError(f"{len(replicates)} replicates, but {len(sizes)} group sizes")
    kept = [(r, m) for r, m in zip(replicates, sizes, strict=True) if r is not None and m > 0]
    n_groups = len(kept)
    if n_groups < MIN_GROUPS:
        return None, n_groups
    deleted = np.array([r for r, _ in kept], dtype=np.float64)
    share = np.array([m for _, m in kept], dtype=np.float64)
    share /= share.sum()
    pseudo = value / share - (1 / share - 1) * deleted
    centre = n_groups * value - ((1 - share) * deleted).sum()
    return float(np.mean((pseudo - centre) ** 2 / (1 / share - 1))), n_groups


def _interval(value: float, error: float, n_groups: int) -> Estimate:
    """Returns value with its t interval; a standard error of nothing but rounding gives none."""
    from scipy.special import stdtr, stdtrit

    if error <= 1e-12 * max(1.0, abs(value)):
        p = 1.0 if abs(value) <= 1e-12 else None
        return Estimate(value, n=n_groups, p_value=p, reason="the same value whichever group is left out")
    half = float(stdtrit(n_groups - 1, 1 - ALPHA / 2)) * error
    p = 2 * float(stdtr(n_groups - 1, -abs(value) / error))
    return Estimate(value, value - half, value + half, n_groups, p)
