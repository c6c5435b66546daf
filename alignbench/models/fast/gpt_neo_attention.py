"""GPT-Neo's attention, of which transformers has one slow form alone.

It makes a tensor of one number on the device in every layer, for which a GPU stops, and which no CUDA graph can hold;
and it multiplies the query of a single token as a matrix. This is a module of its own because its base class loads the
family's code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention


class GPTNeoAttention(GPTNeoSelfAttention):  # type: ignore[misc]  # transformers leaves it untyped
    """The same function of the same weights."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        layer_past: Any = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Maps states (b, s, h) to (b, s, h).

        The weights of attention, (b, heads, s, n), come too; for a single token only where they are asked for.
        """
        query, key, value = (
            self._split_heads(projection(hidden_states), self.num_heads, self.head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_id)
        weights: Tensor | None = None
        if self._is_step(query, key) and not output_attentions:
            attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=1.0)
        else:
            attended, weights = self._attn(query, key, value, attention_mask)
        return self.resid_dropout(self.out_proj(self._merge_heads(attended, self.num_heads, self.head_dim))), weights

    def _is_step(self, query: Tensor, key: Tensor) -> bool:
        """True where one token reads all that is there, on a CPU, in float32."""
        is_plain = query.device.type == "cpu" and query.dtype == key.dtype == torch.float32
        is_one = query.shape[-2] == 1 and is_plain and not torch.is_grad_enabled()
        return is_one and bool(self.bias[0, 0, key.shape[-2] - 1, 0])  # what is within the window reaches to the first

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
