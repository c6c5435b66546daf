"""Token rewards, and whitening.

Shapes: b completions, t completion positions. Masks are True on real completion tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values (b, t) where the mask is True: a scalar."""
    return (values * mask).sum() / mask.sum()


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

    The variance is the biased one, as in the first RLHF code (Ziegler et al. 2019); 0 where the mask is False.
    """
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    scaled = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (scaled if center else scaled + mean) * mask
