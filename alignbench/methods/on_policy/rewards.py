"""The reward of a completion, the rewards of its tokens, and whitening.

Shapes: b completions, t completion positions. Masks are True on real completion tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from alignbench.methods.on_policy.config import OnPolicyConfig
    from alignbench.records import Completion


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values (b, t) where the mask is True: a scalar."""
    return (values * mask).sum() / mask.sum()


@dataclass
class RunningMoments:
    """Mean and variance of every reward seen so far (Chan, Golub and LeVeque 1979, updating by batches)."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared differences from the mean."""

    def update(self, values: Tensor) -> None:
        """Takes in a batch of values, (b,)."""
        n = values.numel()
        if n == 0:
            return
        batch = values.double()
        mean = batch.mean().item()
        difference, total = mean - self.mean, self.n + n
        self.squares += ((batch - mean) ** 2).sum().item() + difference**2 * self.n * n / total
        self.mean += difference * n / total
        self.n = total

    @property
    def std(self) -> float:
        """Sample standard deviation; 1 where it is not known or 0, so that dividing by it changes nothing."""
        variance = self.squares / (self.n - 1) if self.n > 1 else 0.0
        return math.sqrt(variance) if variance > 0 else 1.0


def scaled_rewards(
    rewards: Tensor, moments: RunningMoments, scaling: Literal["none", "std", "mean_std"], clip: float | None
) -> Tensor:
    """Rewards (b,) over their running standard deviation, with `mean_std` less their running mean, then cut.

    Scaling by running moments: Engstrom et al. 2020 (arXiv:2005.12729), section 3.
    """
    if scaling == "mean_std":
        rewards = rewards - moments.mean
    if scaling != "none":
        rewards = rewards / moments.std
    return rewards if clip is None else rewards.clamp(-clip, clip)


def completion_penalties(n_tokens: Tensor, is_cut: Tensor, missing_eos_penalty: float, length_penalty: float) -> Tensor:
    """What is taken off each reward, (b,): for a completion that ran into its limit, and for its length.

    Args:
        n_tokens: Tokens of each completion, (b,).
        is_cut: True where it ended by its token limit, (b,).
        missing_eos_penalty: Cost of being cut.
        length_penalty: Cost of one token.
    """
    return missing_eos_penalty * is_cut + length_penalty * n_tokens


def shaped_rewards(
    scores: Sequence[float | None], completions: Sequence[Completion], config: OnPolicyConfig, moments: RunningMoments
) -> tuple[Tensor, Tensor]:
    """Which completions are scored, (b,), and their rewards scaled, cut and penalised, (b,), 0 where unscored."""
    scored = torch.tensor([score is not None for score in scores])
    rewards = torch.tensor([score or 0.0 for score in scores])
    if config.reward_scaling != "none":
        moments.update(rewards[scored])
    rewards = scaled_rewards(rewards, moments, config.reward_scaling, config.reward_clip)
    n_tokens = torch.tensor([len(c.token_ids) for c in completions])
    is_cut = torch.tensor([c.finish_reason == "length" for c in completions])
    penalties = completion_penalties(n_tokens, is_cut, config.missing_eos_penalty, config.length_penalty)
    return scored, (rewards - penalties) * scored


def token_rewards(rewards: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Reward of every token: minus the KL penalty everywhere, plus the completion's reward on its last token.

    R_t = -kl_coef * kl_t + [t is last] * r  (Ziegler et al. 2019, section 2.2)

    Args:
        rewards: One reward per completion, (b,).
        kl: KL estimate of every token in nats, (b, t).
        mask: (b, t), every row with at least one True, contiguous from the left.
        kl_coef: Weight of the penalty.

    Returns:
        (b, t), 0 where the mask is False.
    """
    per_token = -kl_coef * kl * mask
    last = mask.sum(dim=1, keepdim=True) - 1
    return per_token.scatter_add(1, last, rewards.to(per_token).unsqueeze(1))


def whiten(values: Tensor, mask: Tensor, *, center: bool) -> Tensor:
    """Scales values (b, t) to variance 1 over the mask; with `center` the mean becomes 0, without it is kept.

    The variance is the biased one, as in the first RLHF code (Ziegler et al. 2019); 0 where the mask is False. Equal
    values do not differ from their mean, whatever rounding says.
    """
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    highest = values.masked_fill(~mask, -torch.inf).max()
    differ = values.masked_fill(~mask, torch.inf).min() < highest
    scaled = (values - mean) * torch.rsqrt(variance + 1e-8) * differ
    return (scaled if center else scaled + mean) * mask
