"""Log-probabilities of sampled tokens in as few passes over the vocabulary as they need.

The plain way, `token_logprobs` of `policy_distribution`, makes a tensor of the size of the logits for each of: the
temperature, the ban on an early end, their exponentials, and for the gradients of all these. At a small policy that
is a third of an update. Here one such tensor is made and its gradient is written over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alignbench.models.sampling.token_draw import EosId, end_tokens


def sampled_logprobs(
    logits: Tensor, token_ids: Tensor, temperature: float = 1.0, banned: EosId = None, n_banned: int = 0
) -> Tensor:
    """Log-probabilities in nats of `token_ids` (b, t) under logits (b, t, V) / temperature, in float32: (b, t).

    At the first `n_banned` positions the tokens `banned` have probability 0 and the others share what they had.
    """
    found: Tensor = _SampledLogprobs.apply(logits, token_ids, temperature, end_tokens(banned), n_banned)  # type: ignore[no-untyped-call]
    return found


class _SampledLogprobs(torch.autograd.Function):
    """log p(y) = z_y - log sum_v exp z_v;  d log p(y) / d z_v = [v = y] - p(v),  z = logits / temperature."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, token_ids: Tensor, temperature: float, banned: Sequence[int], n_banned: int
    ) -> Tensor:
        scaled = logits.float()
        if temperature != 1.0:
            scaled = scaled / temperature
        if banned and n_banned:
            scaled = scaled.clone() if scaled is logits else scaled
            scaled[:, :n_banned, list(banned)] = -torch.inf
        logprobs = scaled.log_softmax(dim=-1)
        chosen = token_ids.unsqueeze(-1)
        found = logprobs.gather(-1, chosen).squeeze(-1)
        ctx.save_for_backward(logprobs, chosen)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        logprobs, chosen = ctx.saved_tensors
        scaled = (gradient / ctx.temperature).unsqueeze(-1)
        # Nobody else holds it and nothing goes through it twice, so its place can be taken.
        into = logprobs.exp_().mul_(-scaled)
        into.scatter_add_(-1, chosen, scaled)
        return into.to(ctx.dtype), None, None, None, None
