"""Rewards compared within groups: k completions of each of g prompts, (g, k).

`scored` is True where a completion has a reward; others take no part. In a group of equal rewards differences are
exactly 0, whatever rounding says.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from alignbench.methods.on_policy.kl import has_moved

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.methods.on_policy.rollout import Rollout


def is_dead(rewards: Tensor, scored: Tensor) -> Tensor:
    """True where all rewards of a group are equal, (g, 1): it tells no completion from another."""
    lowest = rewards.masked_fill(~scored, torch.inf).amin(dim=1, keepdim=True)
    return lowest >= rewards.masked_fill(~scored, -torch.inf).amax(dim=1, keepdim=True)


def n_dead_groups(rollout: Rollout, k: int) -> int:
    """How many groups of k completions tell none of them from another by the rewards that are trained on."""
    return int(is_dead(rollout.rewards.view(-1, k), rollout.mask.any(dim=1).view(-1, k)).sum())


def centred(rewards: Tensor, scored: Tensor) -> Tensor:
    """r_i - mean of the group, (g, k); 0 where unscored."""
    n = scored.sum(dim=1, keepdim=True).clamp(min=1)
    mean = (rewards * scored).sum(dim=1, keepdim=True) / n
    return (rewards - mean) * (scored & ~is_dead(rewards, scored))


def leave_one_out(rewards: Tensor, scored: Tensor) -> Tensor:
    """r_i - mean of the group's others = n / (n - 1) * (r_i - mean), (g, k), n of them scored; 0 where unscored.

    Kool et al. 2019 (Buy 4 REINFORCE samples, get a baseline for free); Ahmadian et al. 2024 (arXiv:2402.14740).
    """
    n = scored.sum(dim=1, keepdim=True)
    return centred(rewards, scored) * n / (n - 1).clamp(min=1)


def standardised(rewards: Tensor, scored: Tensor, epsilon: float = 1e-4) -> Tensor:
    """(r_i - mean) / (std + epsilon), (g, k), with the sample standard deviation, divisor n - 1 (TRL's GRPO)."""
    differences = centred(rewards, scored)
    n = scored.sum(dim=1, keepdim=True)
    std = ((differences**2).sum(dim=1, keepdim=True) / (n - 1).clamp(min=1)).sqrt()
    return differences / (std + epsilon)


def kl_of_completions(rollout: Rollout) -> Tensor:
    """The KL of each completion to the reference, (b,): the sum over its tokens; exactly 0 before anything has moved.

    What rounding makes of 0 would tell completions of equal rewards from each other, and Adam takes whole steps however
    small a gradient is.
    """
    return (kl_beyond_rounding(rollout) * rollout.mask).sum(dim=1)


def kl_beyond_rounding(rollout: Rollout) -> Tensor:
    """The KL of each token to the reference, (b, t); 0 for all where no token shows more than rounding."""
    return rollout.kl * has_moved(rollout.policy_logprobs, rollout.reference_logprobs, rollout.mask)


def best_and_worst(rewards: Tensor, scored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which completion of each group has the highest and the lowest reward, and whether these differ, all (g,)."""
    best = rewards.masked_fill(~scored, -torch.inf).argmax(dim=1)
    worst = rewards.masked_fill(~scored, torch.inf).argmin(dim=1)
    return best, worst, ~is_dead(rewards, scored).squeeze(1)


def rows_of_groups(rollout: Rollout, places: Tensor, k: int, trained_on: Tensor) -> Rollout:
    """Some completions of each group of k, `places` (g, n), beside each other; masked where not `trained_on` (g,)."""
    n = places.shape[1]
    rows = torch.arange(len(places), device=places.device).unsqueeze(1) * k + places
    part = rollout.rows(rows.flatten().cpu())
    return replace(part, mask=part.mask & trained_on.repeat_interleave(n).unsqueeze(1))
