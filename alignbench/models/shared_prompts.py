"""A full pass over several completions of the same prompts, or over texts that begin alike: that is read once.

Of 25 completions of a prompt the prompt is more than half of what a plain pass reads, of a judge's question its rubric
and examples are. The numbers are those of the plain pass up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignbench.models.forward import (
    SequenceBatch,
    collate,
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
"""Prompts are read once where at most this share of the rows has one of its own: copying what was read costs too.

Likewise a common beginning, where it is at least this share of the longest text.
"""


def completion_logits(model: nn.Module, batch: SequenceBatch) -> Tensor:
    """The logits of `completion_forward`, (b, t, V)."""
    t = batch.completion_mask.shape[1]
    firsts, owners = _distinct_prompts(batch)
    is_shared = len(firsts) <= _WORTH_SHARING * len(batch)
    if t == 1 or not is_shared or not _can_go_on(model):
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


def next_logits(model: Any, texts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> Tensor:
    """The logits of the token after each text, a list of token ids: (b, V)."""
    n_most = min(map(len, texts)) - 1  # the last token is read apart: its logits are asked for
    n_alike = next((i for i, ids in enumerate(zip(*texts, strict=False)) if len(set(ids)) > 1), n_most)
    n = min(n_alike, n_most)
    past: Any = None
    if len(texts) > 1 and n >= _WORTH_SHARING * max(map(len, texts)) and _can_go_on(model):
        past = getattr(_pass(model, [texts[0][:n]], 0, device, use_cache=True), "past_key_values", None)
    if past is None:
        batch = collate(texts, [[pad_id]] * len(texts), pad_id, device, for_encoder=is_encoder_decoder(model))
        return completion_forward(model, batch)[0][:, 0]
    found: dict[int, Tensor] = {}
    # Of one length at a time: padding between a beginning and what follows would take a part of a layer's window.
    for length in {len(ids) for ids in texts}:
        rows = [i for i, ids in enumerate(texts) if len(ids) == length]
        read = copy.deepcopy(past)
        read.batch_select_indices(torch.zeros(len(rows), dtype=torch.long, device=device))
        rest = [texts[i][n:] for i in rows]
        logits = _pass(model, rest, n, device, past_key_values=read, use_cache=True).logits[:, 0]
        found.update(zip(rows, logits, strict=True))
    return torch.stack([found[i] for i in range(len(texts))])


def _pass(model: Any, texts: Sequence[Sequence[int]], n_before: int, device: torch.device, **kwargs: Any) -> Any:
    """A pass over texts of one length, behind what was read before; the logits of the last position."""
    ids = to_device(torch.tensor([list(one) for one in texts]), device)
    mask = ids.new_ones(len(texts), n_before + ids.shape[1])
    return forward(model, ids, mask, position_ids(mask)[:, n_before:], 1, **kwargs)


def _can_go_on(model: Any) -> bool:
    """True where a pass can go on from what an earlier one has read, copied for every row."""
    return not is_encoder_decoder(model) and keeps_a_cache(model) and has_plain_cache(model)


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
