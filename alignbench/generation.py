"""The one sampler, and the one way of laying prompts and completions into a batch.

Rollouts, pair drawing and evaluation all sample here. Every draw is keyed by (key, prompt id, sample, position),
so what is sampled does not depend on batch size, on the order of prompts, or on the method that asks.

Shapes: b sequences, p prompt positions (padded on the left), t completion positions (padded on the right),
V words of the vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from alignbench.errors import ModelError
from alignbench.records import Decoding, FinishReason
from alignbench.runtime import Key, generator

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """Prompts and completions side by side: the completion of every row starts in the same column."""

    input_ids: Tensor
    """(b, p + t)."""
    attention_mask: Tensor
    """(b, p + t), 1 on real tokens."""
    completion_mask: Tensor
    """(b, t), True on real completion tokens, a sampled end-of-sequence token included."""

    @property
    def completion_ids(self) -> Tensor:
        """(b, t)."""
        return self.input_ids[:, -self.completion_mask.shape[1] :]

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def rows(self, index: Tensor | slice) -> SequenceBatch:
        """Returns some of the rows, padded as before."""
        return SequenceBatch(self.input_ids[index], self.attention_mask[index], self.completion_mask[index])


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sampled completion."""

    token_ids: tuple[int, ...]
    """The end-of-sequence token included where `finish_reason` is `eos`."""
    finish_reason: FinishReason


def collate(
    prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> SequenceBatch:
    """Lays prompts (padded on the left) and completions (padded on the right) into one batch."""
    p = max(len(ids) for ids in prompt_ids)
    t = max(1, *(len(ids) for ids in completion_ids))
    rows, masks = [], []
    for prompt, completion in zip(prompt_ids, completion_ids, strict=True):
        left, right = p - len(prompt), t - len(completion)
        rows.append([pad_id] * left + list(prompt) + list(completion) + [pad_id] * right)
        masks.append([0] * left + [1] * (len(prompt) + len(completion)) + [0] * right)
    attention_mask = torch.tensor(masks, device=device)
    return SequenceBatch(torch.tensor(rows, device=device), attention_mask, attention_mask[:, p:].bool())


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions counted over real tokens only, (b, s); padding gets 0."""
    return (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)


@cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def forward(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, last: int, **kwargs: Any
) -> Any:
    """Runs a causal model with explicit positions; logits come for the last `last` positions only.

    Families that derive positions from the mask (Bloom) are not given any.
    """
    inner: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    accepted = _parameters(type(inner).forward)
    if "position_ids" in accepted:
        kwargs["position_ids"] = positions
    if "logits_to_keep" in accepted:
        kwargs["logits_to_keep"] = last
    output = model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
    if output.logits.shape[1] > last:
        output.logits = output.logits[:, -last:]
    return output


def completion_forward(model: nn.Module, batch: SequenceBatch, *, hidden: bool = False) -> tuple[Tensor, Tensor | None]:
    """One full pass over prompts and completions.

    Returns the logits (b, t, V) that predict each completion token, and with `hidden` the last hidden states
    (b, t, hidden size) at the same positions.
    """
    t = batch.completion_mask.shape[1]
    positions = position_ids(batch.attention_mask)
    output = forward(
        model, batch.input_ids, batch.attention_mask, positions, t + 1, use_cache=False, output_hidden_states=hidden
    )
    states = output.hidden_states[-1][:, -t - 1 : -1] if hidden else None
    return output.logits[:, :-1], states


def token_logprobs(logits: Tensor, token_ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities in nats of `token_ids` (b, t) under `logits` (b, t, V) / temperature, in float32: (b, t)."""
    scaled = logits.float() / temperature
    return scaled.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(dim=-1)


def uniforms(key: Key, rows: Sequence[tuple[str, int]], n: int) -> Tensor:
    """Uniform numbers in [0, 1), (b, n) float64: one stream for each (prompt id, sample)."""
    return torch.stack([torch.from_numpy(generator(*key, prompt_id, sample).random(n)) for prompt_id, sample in rows])


def sampling_probabilities(logits: Tensor, decoding: Decoding) -> Tensor:
    """The distribution that is sampled from, (b, V) float64: temperature, then top-k, then top-p, renormalised.

    Top-p keeps the smallest set of most likely tokens whose probability reaches p (Holtzman et al. 2020).
    """
    scaled = logits.double() / decoding.temperature
    if 0 < decoding.top_k < scaled.shape[-1]:
        threshold = scaled.topk(decoding.top_k, dim=-1).values[..., -1:]
        scaled = scaled.masked_fill(scaled < threshold, -torch.inf)
    probabilities = scaled.softmax(dim=-1)
    if decoding.top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        ordered = ordered.masked_fill(before >= decoding.top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    return probabilities


def inverse_cdf(probabilities: Tensor, u: Tensor) -> Tensor:
    """The token at which the cumulative probability passes u: (b, V), (b,) -> (b,). Never one of probability 0."""
    cumulative = probabilities.cumsum(dim=-1)
    return torch.searchsorted(cumulative, (u * cumulative[:, -1]).unsqueeze(-1), right=True).squeeze(-1)


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
) -> list[Sampled]:
    """Samples one completion for every prompt, of at most `lengths[i]` tokens, from the uniforms `u` (b, >= t).

    Raises:
        ModelError: The model's logits are not finite.
    """
    device = next(model.parameters()).device
    batch = collate(prompt_ids, [()] * len(prompt_ids), pad_id, device)
    tokens, mask = batch.input_ids[:, :-1], batch.attention_mask[:, :-1]
    positions = position_ids(mask)
    u, limits = u.to(device), torch.tensor(lengths, device=device)
    finished = torch.zeros(len(lengths), dtype=torch.bool, device=device)
    is_finite = torch.ones((), dtype=torch.bool, device=device)  # read once, at the end: no waiting for the device
    drawn: list[Tensor] = []
    past = None
    for step in range(max(lengths)):
        output = forward(model, tokens, mask, positions, 1, past_key_values=past, use_cache=True)
        logits = output.logits[:, -1]
        is_finite &= torch.isfinite(logits).all()
        if eos_id is not None and step < decoding.min_new_tokens:
            logits[:, eos_id] = -torch.inf
        token = inverse_cdf(sampling_probabilities(logits, decoding), u[:, step]).clamp(max=logits.shape[-1] - 1)
        drawn.append(token)
        finished |= limits == step + 1
        if eos_id is not None:
            finished |= token == eos_id
        if bool(finished.all()):
            break
        past, tokens = output.past_key_values, token.unsqueeze(-1)
        mask = torch.cat((mask, mask.new_ones(len(lengths), 1)), dim=1)
        positions = positions[:, -1:] + 1
    if not bool(is_finite):
        raise ModelError("the policy's logits are not finite; if it is being trained, lower method.learning_rate")
    return [_cut(row, length, eos_id) for row, length in zip(torch.stack(drawn, dim=1).tolist(), lengths, strict=True)]


def _cut(tokens: list[int], length: int, eos_id: int | None) -> Sampled:
    tokens = tokens[:length]
    if eos_id in tokens:
        return Sampled(tuple(tokens[: tokens.index(eos_id) + 1]), "eos")
    return Sampled(tuple(tokens), "length")
