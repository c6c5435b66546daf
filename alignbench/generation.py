"""The one sampler.

Rollouts, pair drawing and evaluation all sample here. Every draw is keyed by (key, prompt id, sample, position),
so what is sampled does not depend on batch size, on the order of prompts, or on the method that asks.

Shapes: b sequences, t completion positions, V words of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignbench.errors import ModelError
from alignbench.passes import collate, decoder_start, forward, is_encoder_decoder, position_ids
from alignbench.records import Decoding, FinishReason
from alignbench.runtime import Key, generator

if TYPE_CHECKING:
    from torch import nn

_BLOCK = 256
"""Tokens of the vocabulary whose weights are summed at once."""
_NEVER = -1e9
"""The logit of what cannot be drawn: its probability is 0, and products with it are finite."""
_CHECK_EVERY = 4
"""Steps between looks at how many completions have ended: a look waits for the device."""
_WORTH_LEAVING = 0.75
"""Ended rows leave the batch once at most this share of its rows goes on: leaving copies the key-value cache."""


@dataclass(slots=True)
class Capture:
    """What sampling sees of each token, for those who would otherwise run the model over it once more.

    Every list gets a tensor (b, t) for each batch that is sampled, 0 behind a completion.
    """

    values_of: Callable[[Tensor], Tensor] | None = None
    """Last hidden states (b, h) to values (b,); None where values are not wanted."""
    logprobs: list[Tensor] = field(default_factory=list)
    """Of the tokens in nats, at the sampling temperature, without top-k and top-p."""
    values: list[Tensor] = field(default_factory=list)
    """Of the states before the tokens."""
    entropy: list[Tensor] = field(default_factory=list)
    """In nats, of the distributions that `logprobs` are of."""

    def begin(self, n: int, longest: int, device: torch.device) -> Capture:
        """Makes room for a batch of n completions."""
        for kept in (self.logprobs, self.values, self.entropy):
            kept.append(torch.zeros((n, longest), device=device))
        return self

    def see(
        self, rows: Tensor, step: int, token: Tensor, scaled: Tensor, probabilities: Tensor, hidden: Tensor
    ) -> None:
        """Keeps one step of the rows that are still being sampled."""
        chosen = token.unsqueeze(-1)
        logprob = probabilities.gather(-1, chosen).squeeze(-1).log()
        self.logprobs[-1][rows, step] = logprob
        log_total = scaled.gather(-1, chosen).squeeze(-1) - logprob
        self.entropy[-1][rows, step] = log_total - torch.linalg.vecdot(probabilities, scaled)
        if self.values_of is not None:
            self.values[-1][rows, step] = self.values_of(hidden)


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sampled completion."""

    token_ids: tuple[int, ...]
    """The end-of-sequence token included where `finish_reason` is `eos`."""
    finish_reason: FinishReason


def uniforms(key: Key, rows: Sequence[tuple[str, int]], n: int) -> Tensor:
    """Uniform numbers in [0, 1), (b, n) float64: one stream for each (prompt id, sample)."""
    return torch.stack([torch.from_numpy(generator(*key, prompt_id, sample).random(n)) for prompt_id, sample in rows])


def sampling_probabilities(logits: Tensor, decoding: Decoding, eos_id: int | None = None, position: int = 0) -> Tensor:
    """The distribution that the token at a position of the completion is sampled from: (b, V) -> (b, V), float64."""
    scaled = logits.double() / decoding.temperature
    support = _support(scaled, decoding, eos_id if position < decoding.min_new_tokens else None)
    return (scaled if support is None else scaled.masked_fill(~support, -torch.inf)).softmax(dim=-1)


@torch.no_grad()
def sampling_support(logits: Tensor, decoding: Decoding, eos_id: int | None) -> Tensor | None:
    """Which tokens can be sampled at the first t positions of completions, given raw logits (b, t, V).

    Returns booleans (b, t, V); (1, t, V) where only the end-of-sequence token is banned; None where nothing is.
    """
    t, n_words = logits.shape[1:]
    n_banned = 0 if eos_id is None else min(decoding.min_new_tokens, t)
    if decoding.keeps_all(n_words):
        if not n_banned:
            return None
        support = torch.ones((1, t, n_words), dtype=torch.bool, device=logits.device)
        support[:, :n_banned, eos_id] = False
        return support
    # One position at a time, as in sampling: a sort of all of them would need much memory.
    kept = [
        _support(logits[:, i].float() / decoding.temperature, decoding, eos_id if i < n_banned else None)
        for i in range(t)
    ]
    return torch.stack([one for one in kept if one is not None], dim=1)


def _support(scaled: Tensor, decoding: Decoding, banned: int | None) -> Tensor | None:
    """Tokens that are kept of logits over temperature (b, V): not `banned`, then top-k, then top-p of what is left.

    Top-k keeps what ties with the last of the k (Fan et al. 2018). Top-p keeps the smallest set of most likely tokens
    whose probability reaches p (Holtzman et al. 2020).
    """
    support = None
    if banned is not None:
        support = torch.ones_like(scaled, dtype=torch.bool)
        support[:, banned] = False
        scaled = scaled.masked_fill(~support, -torch.inf)
    if 0 < decoding.top_k < scaled.shape[-1]:
        support = scaled >= scaled.topk(decoding.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(~support, -torch.inf)
    if decoding.top_p < 1.0:
        support = _nucleus(scaled.softmax(dim=-1), decoding.top_p)
    return support


def _nucleus(probabilities: Tensor, p: float) -> Tensor:
    """The smallest set of most likely tokens whose probability reaches p: (b, V) -> (b, V), booleans.

    Among tokens of the same probability at its border the first ones are in it.
    """
    ordered = _descending(probabilities)
    # A sum reaches p where it passes the number before p.
    last = inverse_cdf(ordered, ordered.new_full((len(ordered),), math.nextafter(p, 0.0), dtype=torch.float64))
    least = ordered.gather(-1, last.unsqueeze(-1))
    above, tied = probabilities > least, probabilities == least
    n_tied = last + 1 - above.sum(dim=-1)
    last_tied = inverse_cdf(tied, (n_tied - 0.5) / tied.sum(dim=-1)).unsqueeze(-1)
    return above | (tied & (torch.arange(tied.shape[-1], device=tied.device) <= last_tied))


def _descending(values: Tensor) -> Tensor:
    """Sorted along the last dimension, largest first; on a CPU by numpy, which takes a tenth of torch's time."""
    if values.device.type != "cpu":
        return values.sort(dim=-1, descending=True).values
    ordered = -values.detach()
    ordered.numpy().sort(axis=-1)
    return ordered.neg_()


def inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """The token at which the cumulative weight passes the share u of the whole: (b, V), (b,) -> (b,).

    Never one of weight 0, but any token where weights are not finite. Sums are in float64, first over blocks of tokens
    and then within one block, so that it takes one pass over the vocabulary.
    """
    n_words = weights.shape[-1]
    n_whole = n_words // _BLOCK
    sums = weights[:, : n_whole * _BLOCK].reshape(len(weights), n_whole, _BLOCK).sum(dim=-1, dtype=torch.float64)
    rest = weights[:, n_whole * _BLOCK :].sum(dim=-1, keepdim=True, dtype=torch.float64)
    cumulative = torch.cat((sums, rest), dim=-1).cumsum(dim=-1)
    total = cumulative[:, -1:]
    target = torch.minimum(u.unsqueeze(-1) * total, total.nextafter(torch.zeros_like(total)))
    block = torch.searchsorted(cumulative, target, right=True).clamp(max=n_whole)
    before = torch.where(block > 0, cumulative.gather(-1, (block - 1).clamp(min=0)), 0.0)
    places = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    within = torch.where(places < n_words, weights.gather(-1, places.clamp(max=n_words - 1)), 0.0).double()
    last = (within > 0).int().cumsum(dim=-1).argmax(dim=-1, keepdim=True)  # where rounding passes the block's end
    inside = torch.searchsorted(within.cumsum(dim=-1), target - before, right=True)
    return (block * _BLOCK + torch.minimum(inside, last)).clamp(max=n_words - 1).squeeze(-1)


def _draw(logits: Tensor, u: Tensor, decoding: Decoding, banned: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (b,) drawn with uniforms u (b,) from logits (b, V), with scaled logits and probabilities (b, V).

    These two are in float32, at the sampling temperature and without the banned token, before top-k and top-p.
    """
    scaled = logits.float()
    if decoding.temperature != 1.0:
        scaled = scaled / decoding.temperature
    if banned is not None:
        scaled = scaled.index_fill(-1, torch.tensor(banned, device=logits.device), _NEVER)
    probabilities = scaled.softmax(dim=-1)
    support = None if decoding.keeps_all(logits.shape[-1]) else _support(scaled, decoding, None)
    token = inverse_cdf(probabilities if support is None else probabilities * support, u)
    return token, scaled, probabilities


@torch.no_grad()
def sample(
    model: nn.Module,
    prompt_ids: Sequence[Sequence[int]],
    lengths: Sequence[int],
    u: Tensor,
    decoding: Decoding,
    *,
    eos_id: int | None,
    pad_id: int,
    capture: Capture | None = None,
) -> list[Sampled]:
    """Samples one completion for every prompt, of at most `lengths[i]` tokens, from the uniforms `u` (b, >= t).

    Rows that have ended leave the batch from time to time.

    Raises:
        ModelError: The model's logits are not finite.
    """
    device = next(model.parameters()).device
    two_parts = is_encoder_decoder(model)
    distinct = {ids: i for i, ids in enumerate(dict.fromkeys(map(tuple, prompt_ids)))}
    owners = torch.tensor([distinct[tuple(ids)] for ids in prompt_ids], device=device)
    batch = collate(list(distinct), [()] * len(distinct), pad_id, device, for_encoder=two_parts)
    prompts, mask = batch.input_ids[:, :-1], batch.attention_mask[:, :-1]  # without the column for no completion
    steps = _encoder_decoder_steps(model, prompts, mask) if two_parts else _causal_steps(model, prompts, mask)
    n, longest = len(lengths), max(lengths)
    u, limits = u.to(device), torch.tensor(lengths, device=device)
    drawn = torch.full((n, longest), pad_id, device=device)
    kept = capture.begin(n, longest, device) if capture is not None else None
    rows = torch.arange(n, device=device)
    finished = torch.zeros(n, dtype=torch.bool, device=device)
    is_finite = torch.ones((), dtype=torch.bool, device=device)  # read once, at the end: no waiting for the device
    logits, hidden = (states[owners] for states in next(steps))
    staying = owners if len(distinct) < n else None  # equal prompts are read once; then each row goes its own way
    for step in range(longest):
        banned = eos_id if step < decoding.min_new_tokens else None
        token, scaled, probabilities = _draw(logits, u[rows, step], decoding, banned)
        is_finite &= probabilities.sum().isfinite()
        drawn[rows, step] = token
        if kept is not None:
            kept.see(rows, step, token, scaled, probabilities, hidden)
        finished |= limits[rows] == step + 1
        if eos_id is not None:
            finished |= token == eos_id
        if step % _CHECK_EVERY == _CHECK_EVERY - 1 or step + 1 == longest:
            n_left = len(rows) - int(finished.sum())
            if n_left == 0:
                break
            if n_left <= _WORTH_LEAVING * len(rows):
                staying = (~finished).nonzero().squeeze(-1)
                rows, finished, token = rows[staying], finished[staying], token[staying]
        logits, hidden = steps.send((token, staying))
        staying = None
    if not bool(is_finite):
        raise ModelError("the policy's logits are not finite; if it is being trained, lower method.learning_rate")
    return [_cut(row, length, eos_id) for row, length in zip(drawn.tolist(), lengths, strict=True)]


_Steps = Generator[tuple[Tensor, Tensor], tuple[Tensor, Tensor | None]]


def _causal_steps(model: nn.Module, tokens: Tensor, mask: Tensor) -> _Steps:
    """Yields logits (b, V) of the next token and their hidden states (b, h), over and over.

    It is sent the token (b,), and where rows leave the places of those that stay.
    """
    positions, past = position_ids(mask), None
    while True:
        output = forward(
            model, tokens, mask, positions, 1, past_key_values=past, use_cache=True, output_hidden_states=True
        )
        past = output.past_key_values
        token, staying = yield output.logits[:, -1], output.hidden_states[-1][:, -1]
        positions = positions[:, -1:] + 1
        if staying is not None:
            past.batch_select_indices(staying)
            mask, positions = mask[staying], positions[staying]
        tokens = token.unsqueeze(-1)
        mask = torch.cat((mask, torch.ones_like(tokens)), dim=1)


def _encoder_decoder_steps(model: nn.Module, prompts: Tensor, mask: Tensor) -> _Steps:
    """`_causal_steps` for a decoder; the encoder runs once."""
    tokens = prompts.new_full((len(prompts), 1), decoder_start(model))
    options: dict[str, Any] = {"use_cache": True, "return_dict": True, "output_hidden_states": True}
    output = model(input_ids=prompts, attention_mask=mask, decoder_input_ids=tokens, **options)
    encoded = output.encoder_last_hidden_state
    while True:
        past = output.past_key_values
        token, staying = yield output.logits[:, -1], output.decoder_hidden_states[-1][:, -1]
        if staying is not None:
            past.batch_select_indices(staying)
            mask, encoded = mask[staying], encoded[staying]
        output = model(
            encoder_outputs=(encoded,),
            attention_mask=mask,
            decoder_input_ids=token.unsqueeze(-1),
            past_key_values=past,
            **options,
        )


def _cut(tokens: list[int], length: int, eos_id: int | None) -> Sampled:
    tokens = tokens[:length]
    if eos_id in tokens:
        return Sampled(tuple(tokens[: tokens.index(eos_id) + 1]), "eos")
    return Sampled(tuple(tokens), "length")
