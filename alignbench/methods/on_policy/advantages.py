"""Advantages of tokens: rewards to go, and generalised advantage estimation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor


class Targets(NamedTuple):
    """What the update works towards, both (b, t), 0 after the completion."""

    advantages: Tensor
    returns: Tensor | None = None
    """None where there are no values to be trained."""

    def rows(self, rows: Tensor, t: int | None = None) -> Targets:
        """Those of some rows, of the first t tokens."""
        returns = None if self.returns is None else self.returns[rows, :t]
        return Targets(self.advantages[rows, :t], returns)


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of every completion token (Schulman et al. 2015, arXiv:1506.02438).

    delta_t = R_t + gamma * V_{t+1} - V_t, A_t = delta_t + gamma * lambda * A_{t+1}, G_t = A_t + V_t, with V = A = 0
    after the last token: a completion that was cut at its token limit counts as ended, as in the classic recipe.

    Args:
        rewards: (b, t).
        values: Value of the state before each token, (b, t).
        mask: True on real completion tokens, (b, t), contiguous from the left.
        gamma: Discount.
        gae_lambda: 0 is one-step temporal difference, 1 is the Monte Carlo return.

    Returns:
        Advantages and returns, both (b, t), 0 where the mask is False.
    """
    values = values * mask
    advantage = torch.zeros_like(values[:, 0])
    following = torch.zeros_like(values[:, 0])
    columns = []
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        advantage = (delta + gamma * gae_lambda * advantage) * mask[:, t]
        following = values[:, t]
        columns.append(advantage)
    advantages = torch.stack(columns[::-1], dim=1)
    return advantages, advantages + values


def rewards_to_go(rewards: Tensor) -> Tensor:
    """G_t = sum of R_s for s >= t, from token rewards (b, t) that are 0 after the completion: (b, t)."""
    return rewards.flip(1).cumsum(dim=1).flip(1)
