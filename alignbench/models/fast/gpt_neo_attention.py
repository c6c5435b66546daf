"""GPT-Neo's attention without a copy to the device.

That of transformers makes a tensor of one number on the device in every layer, for which a GPU stops, and which no CUDA
graph can hold. It is a module of its own because its base class loads the family's code.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention


class GPTNeoAttention(GPTNeoSelfAttention):  # type: ignore[misc]  # transformers leaves it untyped
    """The same function of the same weights."""

    def _attn(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Queries (b, heads, s, d), keys and values (b, heads, n, d); scores are in float32."""
        s, n = query.shape[-2], key.shape[-2]
        scores = query.float() @ key.float().transpose(-1, -2)
        hidden = ~self.bias[:, :, n - s : n, :n]
        lowest = torch.finfo(scores.dtype).min
        if attention_mask is None:
            scores = scores.masked_fill(hidden, lowest)
        else:  # the mask has one head, the scores have many
            scores = scores + attention_mask.to(scores.dtype).masked_fill(hidden, lowest)
        weights = scores.softmax(dim=-1).to(value.dtype)
        return weights @ value, weights
