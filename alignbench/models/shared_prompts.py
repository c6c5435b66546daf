"""A full pass over several completions of the same prompts, in which each prompt is read once.

Of 25 completions of a prompt the prompt is more than half of what a plain pass reads. The numbers are those of the
plain pass up to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignbench.models.forward import (
    SequenceBatch,
    completion_forward,
    forward,
    is_encoder_decoder,
    position_ids,
    to_device,
)
from alignbench.models.sampling.growing_cache import has_plain_cache, keeps_a_cache

if TYPE_CHECKING:
    from torch import nn

_WORTH_SHARING = 0.5
"""Prompts are read once where at most this share of the rows has one of its own: copying what was read costs too."""


def completion_logits(model: nn.Module, batch: SequenceBatch) -> Tensor:
    """The logits of `completion_forward`, (b, t, V)."""
    t = batch.completion_mask.shape[1]
    firsts, owners = _distinct_prompts(batch)
    is_shared = len(firsts) <= _WORTH_SHARING * len(batch)
    if t == 1 or not is_shared or is_encoder_decoder(model) or not keeps_a_cache(model) or not has_plain_cache(model):
        return completion_forward(model, batch)[0]
    prompts = batch.rows(torch.tensor(firsts))
    ids, mask = prompts.input_ids[:, :-t], prompts.attention_mask[:, :-t]
    output = forward(model, ids, mask, position_ids(mask), 1, use_cache=True)
    past: Any = getattr(output, "past_key_values", None)
    if past is None:  # it takes a cache and gives none
        return completion_forward(model, batch)[0]
    rows = to_device(torch.tensor(owners), batch.input_ids.device)
    past.batch_select_indices(rows)
    mask = batch.attention_mask[:, :-1]  # nothing follows the last token, so the model need not read it
    positions = position_ids(mask)[:, 1 - t :]
    after = forward(model, batch.completion_ids[:, :-1], mask, positions, t - 1, past_key_values=past, use_cache=True)
    return torch.cat((output.logits[rows], after.logits), dim=1)


def _distinct_prompts(batch: SequenceBatch) -> tuple[list[int], list[int]]:
    """The first row of each prompt, and for every row which of them it has."""
    t = batch.completion_mask.shape[1]
    places: dict[tuple[int, ...], int] = {}
    firsts: list[int] = []
    owners: list[int] = []
    # With their lengths: padding may look like a token.
    for row, prompt in enumerate(torch.cat((batch.lengths[:, :1], batch.input_ids[:, :-t].cpu()), dim=1).tolist()):
        place = places.setdefault(tuple(prompt), len(firsts))
        if place == len(firsts):
            firsts.append(row)
        owners.append(place)
    return firsts, owners
