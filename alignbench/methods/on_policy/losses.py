"""The clipped losses of PPO (Schulman et al. 2017, arXiv:1707.06347), and how losses of tokens are added up.

Each loss takes tensors of shape (b, t) and returns the per-token loss and whether the clipped branch was the larger
one, both (b, t).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor


def token_weights(
    mask: Tensor, aggregation: Literal["tokens", "sequences", "token_sums", "constant"], longest: int
) -> tuple[Tensor, Tensor]:
    """Weights (b, t) of the tokens' losses in a mini-batch, and what their sum is divided by, a scalar.

    tokens: sum over all / number of tokens (DAPO: Yu et al. 2025, arXiv:2503.14476; PPO).
    sequences: mean over completions of the mean over their tokens (GRPO: Shao et al. 2024, arXiv:2402.03300).
    token_sums: mean over completions of the sum over their tokens (RLOO: Ahmadian et al. 2024, arXiv:2402.14740).
    constant: the same over the token limit `longest` (Dr. GRPO: Liu et al. 2025, arXiv:2503.20783).
    """
    if aggregation == "tokens":
        return mask, mask.sum().clamp(min=1)
    n_completions = mask.any(dim=1).sum().clamp(min=1)
    if aggregation == "sequences":
        return mask / mask.sum(dim=1, keepdim=True).clamp(min=1), n_completions
    return mask, n_completions * (longest if aggregation == "constant" else 1)


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float) -> tuple[Tensor, Tensor]:
    """max(-A * ratio, -A * clip(ratio, 1 - clip_range, 1 + clip_range)), equation 7 with the sign of a loss.

    ratio = exp(logprobs - old_logprobs).
    """
    ratio = torch.exp(logprobs - old_logprobs)
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(plain, clipped), clipped > plain


def sequence_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, advantages: Tensor, clip_range: float
) -> tuple[Tensor, Tensor]:
    """The same with one ratio for a completion, exp of the sum of its tokens' differences, spread over its tokens.

    The losses of a completion's n tokens, each a n-th of its loss, add up to it. Advantages are equal at all tokens.
    """
    n = mask.sum(dim=1, keepdim=True).clamp(min=1)
    difference = ((logprobs - old_logprobs) * mask).sum(dim=1, keepdim=True)
    loss, clipped = policy_loss(difference, difference.new_zeros(()), advantages, clip_range)
    return loss / n, clipped


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, value_clip_range: float | None
) -> tuple[Tensor, Tensor]:
    """0.5 * max((V - G)^2, (clip(V, V_old - value_clip_range, V_old + value_clip_range) - G)^2).

    Clipping of values is not in the paper; it comes from the paper's code and the RLHF code after it. With no clip
    range it is 0.5 * (V - G)^2.
    """
    if value_clip_range is None:
        return 0.5 * (values - returns) ** 2, torch.zeros_like(values, dtype=torch.bool)
    near = torch.clamp(values, old_values - value_clip_range, old_values + value_clip_range)
    plain = (values - returns) ** 2
    clipped = (near - returns) ** 2
    return 0.5 * torch.maximum(plain, clipped), clipped > plain


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the next-token distributions of logits (b, t, V): (b, t)."""
    logprobs = logits.float().log_softmax(dim=-1)
    return -(logprobs.exp() * logprobs).sum(dim=-1)


def pair_loss(differences: Tensor, beta: float, form: Literal["sigmoid", "ipo"]) -> Tensor:
    """The loss of pairs from h_w - h_l, h the log-ratio of a completion to the reference: (n,).

    sigmoid: -log sigmoid(beta * difference) (Rafailov et al. 2023, equation 7); ipo: (difference - 1 / (2 beta))^2
    (Azar et al. 2023, equation 17, of sums over tokens).
    """
    if form == "ipo":
        return (differences - 1 / (2 * beta)) ** 2
    return -torch.nn.functional.logsigmoid(beta * differences)
