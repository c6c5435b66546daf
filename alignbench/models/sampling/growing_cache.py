"""Decoding with the cache of the model itself, which grows by a token a step, or by full passes where it has none."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignbench.models.forward import (
    SequenceBatch,
    accepts,
    base_model,
    decoder_start,
    forward,
    is_encoder_decoder,
    position_ids,
)
from alignbench.models.sampling.side_by_side import SideBySide, networks_of
from alignbench.models.sampling.token_draw import NEVER, at_temperature, draw, logprob_and_entropy

if TYPE_CHECKING:
    from torch import nn

    from alignbench.models.sampling.capture import Capture
    from alignbench.records import Decoding

_CHECK_EVERY = 4
"""Steps between looks at how many completions have ended: a look waits for the device."""
_WORTH_LEAVING = 0.75
"""Ended rows leave the batch once at most this share of its rows goes on: leaving copies the key-value cache."""


def decode(
    model: nn.Module,
    batch: SequenceBatch,
    owners: Tensor,
    longest: int,
    limits: Tensor,
    u: Tensor,
    decoding: Decoding,
    ends: Sequence[int],
    pad_id: int,
    capture: Capture | None,
    leaving: bool,
) -> tuple[list[list[int]], bool]:
    """Tokens (b, t), anything after the end, and whether all probabilities were finite.

    Row i continues prompt `owners[i]` of the batch. The cache grows with the tokens; with `leaving`, rows that have
    ended leave the batch from time to time.
    """
    n, device = len(limits), limits.device
    prompts, mask = batch.input_ids[:, :-1], batch.attention_mask[:, :-1]  # without the column for no completion
    with_hidden = capture is not None and capture.values_of is not None
    steps = steps_of(model)(model, prompts, mask, with_hidden)
    drawn = torch.full((n, longest), pad_id, device=device)
    kept = capture.begin(n, longest, device) if capture is not None else None
    rows = torch.arange(n, device=device)
    finished = torch.zeros(n, dtype=torch.bool, device=device)
    is_finite = torch.ones((), dtype=torch.bool, device=device)  # read once, at the end: no waiting for the device
    logits, hidden = next(steps)
    logits, hidden = logits[owners], None if hidden is None else hidden[owners]
    staying = owners if len(batch) < n else None  # equal prompts are read once; then each row goes its own way
    for step in range(longest):
        scaled = at_temperature(logits, decoding)
        if ends and step < decoding.min_new_tokens:
            scaled[:, list(ends)] = NEVER
        token, probabilities = draw(scaled, u[rows, step], decoding)
        is_finite &= probabilities.sum().isfinite()
        drawn[rows, step] = token
        if kept is not None:
            kept.see(rows, step, *logprob_and_entropy(token, scaled, probabilities), hidden)
        finished |= limits[rows] == step + 1
        for end in ends:
            finished |= token == end
        if step % _CHECK_EVERY == _CHECK_EVERY - 1 or step + 1 == longest:
            n_left = len(rows) - int(finished.sum())
            if n_left == 0:
                break
            if leaving and n_left <= _WORTH_LEAVING * len(rows):
                staying = (~finished).nonzero().squeeze(-1)
                rows, finished, token = rows[staying], finished[staying], token[staying]
        logits, hidden = steps.send((token, staying))
        staying = None
    return drawn.tolist(), bool(is_finite)


def keeps_a_cache(model: Any) -> bool:
    """True where a forward pass takes what earlier ones remember, in the form that transformers gives caches."""
    if networks := networks_of(model):
        return all(map(keeps_a_cache, networks))
    return is_encoder_decoder(model) or accepts(model, "past_key_values")


_Steps = Generator[tuple[Tensor, Any], tuple[Tensor, Tensor | None]]


def has_plain_cache(model: Any) -> bool:
    """True where all that a model remembers of a sequence are keys and values, a row of each: then rows can leave.

    Layers of linear attention or convolution have a state of their own.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if networks := networks_of(model):
        return all(map(has_plain_cache, networks))
    if not keeps_a_cache(model):
        return True  # nothing is remembered
    config = base_model(model).config
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in DynamicCache(config=config).layers)


def steps_of(model: Any) -> Callable[[nn.Module, Tensor, Tensor, bool], _Steps]:
    """How a model is run token by token; see `_causal_steps`."""
    if isinstance(model, SideBySide):
        return _steps_together
    if is_encoder_decoder(model):
        return _encoder_decoder_steps
    return _causal_steps if keeps_a_cache(model) else _full_passes


def _steps_together(model: Any, tokens: Tensor, mask: Tensor, with_hidden: bool) -> _Steps:
    """`_causal_steps` of several networks, step by step side by side; they have no hidden states in common."""
    each = [steps_of(network)(network, tokens, mask, False) for network in model.networks]
    logits = [next(steps)[0] for steps in each]
    while True:
        sent = yield model.combined([one.unsqueeze(1) for one in logits])[:, 0], None
        logits = [steps.send(sent)[0] for steps in each]


def _full_passes(model: nn.Module, tokens: Tensor, mask: Tensor, with_hidden: bool) -> _Steps:
    """`_causal_steps` for a model without a cache: every step reads the whole sequence."""
    while True:
        output = forward(model, tokens, mask, position_ids(mask), 1, use_cache=False, output_hidden_states=with_hidden)
        token, staying = yield output.logits[:, -1], output.hidden_states[-1][:, -1] if with_hidden else None
        if staying is not None:
            tokens, mask = tokens[staying], mask[staying]
        tokens = torch.cat((tokens, token.unsqueeze(-1)), dim=1)
        mask = torch.cat((mask, torch.ones_like(token).unsqueeze(-1)), dim=1)


def _causal_steps(model: nn.Module, tokens: Tensor, mask: Tensor, with_hidden: bool) -> _Steps:
    """Yields logits (b, V) of the next token and, if wanted, their hidden states (b, h), over and over.

    It is sent the token (b,), and where rows leave the places of those that stay.
    """
    from alignbench.models.sampling.roomy_cache import give_room

    positions, past = position_ids(mask), None
    while True:
        output = forward(
            model, tokens, mask, positions, 1, past_key_values=past, use_cache=True, output_hidden_states=with_hidden
        )
        past = getattr(output, "past_key_values", None)
        if past is None:  # it takes a cache and gives none
            return (yield from _full_passes(model, tokens, mask, with_hidden))
        token, staying = yield output.logits[:, -1], output.hidden_states[-1][:, -1] if with_hidden else None
        positions = positions[:, -1:] + 1
        if staying is not None:
            past.batch_select_indices(staying)
            mask, positions = mask[staying], positions[staying]
        give_room(past)
        tokens = token.unsqueeze(-1)
        mask = torch.cat((mask, torch.ones_like(tokens)), dim=1)


def _encoder_decoder_steps(model: Any, prompts: Tensor, mask: Tensor, with_hidden: bool) -> _Steps:
    """`_causal_steps` for a decoder; the encoder runs once. Without a cache all tokens are read each time."""
    encoded = model.get_encoder()(input_ids=prompts, attention_mask=mask, return_dict=True)
    tokens, past = prompts.new_full((len(prompts), 1), decoder_start(model)), None
    while True:
        output = model(
            encoder_outputs=encoded,
            attention_mask=mask,
            decoder_input_ids=tokens,
            past_key_values=past,
            use_cache=True,
            return_dict=True,
            output_hidden_states=with_hidden,
        )
        past = output.past_key_values
        token, staying = yield output.logits[:, -1], output.decoder_hidden_states[-1][:, -1] if with_hidden else None
        if staying is not None:
            if past is not None:
                past.batch_select_indices(staying)
            mask, tokens = mask[staying], tokens[staying]
            encoded.last_hidden_state = encoded.last_hidden_state[staying]
        tokens = token.unsqueeze(-1) if past is not None else torch.cat((tokens, token.unsqueeze(-1)), dim=1)
