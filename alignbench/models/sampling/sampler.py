"""The one sampler.

Rollouts, pair drawing and evaluation all sample here. Every draw is keyed by (key, prompt id, sample, position),
so what is sampled does not depend on batch size, on the order of prompts, or on the method that asks.

Decoding keeps keys and values in a cache. On a CPU it grows with the tokens, and rows that have ended leave it. On a
GPU its shape is fixed, so that a step is one CUDA graph (fixed_cache.py). Both give the same numbers.

Shapes: b sequences, t completion positions, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignbench.errors import ModelError
from alignbench.models.forward import collate, is_encoder_decoder, to_device
from alignbench.models.sampling import fixed_cache, growing_cache
from alignbench.models.sampling.capture import Capture, Sampled
from alignbench.models.sampling.token_draw import EosId, end_tokens
from alignbench.records import Decoding

if TYPE_CHECKING:
    from torch import nn


@torch.no_grad()
def sample(
    model: nn.Module,
    prompt_ids: Sequence[Sequence[int]],
    lengths: Sequence[int],
    u: Tensor,
    decoding: Decoding,
    *,
    eos_id: EosId,
    pad_id: int,
    capture: Capture | None = None,
    static: bool | None = None,
) -> list[Sampled]:
    """Samples one completion for every prompt, of at most `lengths[i]` tokens, from the uniforms `u` (b, >= t).

    Args:
        model: What is sampled from.
        prompt_ids: Tokens of the prompts.
        lengths: The most tokens of each completion.
        u: Uniform numbers in [0, 1).
        decoding: Temperature, truncation and minimum length.
        eos_id: The tokens that end a completion; None: only its length does.
        pad_id: Any token that the model has.
        capture: Takes in what sampling sees.
        static: Decode with a cache of fixed shape where the model can; None: on a GPU.

    Raises:
        ModelError: The model's logits are not finite.
    """
    device = next(model.parameters()).device
    ends = end_tokens(eos_id)
    leaving = growing_cache.has_plain_cache(model)
    distinct = list(dict.fromkeys(map(tuple, prompt_ids))) if leaving else prompt_ids
    places = {tuple(ids): i for i, ids in enumerate(distinct)} if leaving else {}
    owners = to_device(torch.tensor([places.get(tuple(ids), i) for i, ids in enumerate(prompt_ids)]), device)
    batch = collate(distinct, [()] * len(distinct), pad_id, device, for_encoder=is_encoder_decoder(model))
    u, limits = to_device(u, device), to_device(torch.tensor(lengths), device)
    width = None
    if static or (static is None and device.type == "cuda"):
        width = fixed_cache.cache_width(model, batch.input_ids.shape[1] - 1 + max(lengths))
    if width is None:
        tokens, is_finite = growing_cache.decode(
            model, batch, owners, max(lengths), limits, u, decoding, ends, pad_id, capture, leaving
        )
    else:
        room = max(decoding.max_new_tokens, *lengths)
        plan = fixed_cache.Plan(len(lengths), width, room, decoding, ends, pad_id, capture is not None)
        tokens, is_finite = fixed_cache.decode(model, batch, owners, max(lengths), limits, u, plan, capture)
    if not is_finite:
        raise ModelError("the policy's logits are not finite; if it is being trained, lower method.learning_rate")
    return [_cut(row, length, ends) for row, length in zip(tokens, lengths, strict=True)]


def _cut(tokens: list[int], length: int, ends: Sequence[int]) -> Sampled:
    for n_before, token in enumerate(tokens[:length]):
        if token in ends:
            return Sampled(tuple(tokens[: n_before + 1]), "eos")
    return Sampled(tuple(tokens[:length]), "length")
