"""The one sampler, and the one way of laying prompts and completions into a batch.

Rollouts, pair drawing and evaluation all sample here. Every draw is keyed by (key, prompt id, sample, position),
so what is sampled does not depend on batch size, on the order of prompts, or on the method that asks.

Shapes: b sequences, p prompt positions, t completion positions (padded on the right), V words of the vocabulary.
A causal model reads prompt and completion as one sequence; of an encoder-decoder model (T5) the encoder reads the
prompt, and the decoder writes the completion.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
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
    """(b, p + t): the prompt, padded on the left, or on the right for an encoder; then the completion."""
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
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device,
    *,
    for_encoder: bool = False,
) -> SequenceBatch:
    """Lays prompts and completions into one batch.

    Completions are padded on the right, and prompts on the left; but on the right where an encoder reads them, because
    it may count positions from the first column (BART) and takes no others.
    """
    p = max(len(ids) for ids in prompt_ids)
    t = max(1, *(len(ids) for ids in completion_ids))
    rows, masks = [], []
    for prompt, completion in zip(prompt_ids, completion_ids, strict=True):
        n_left, n_right = p - len(prompt), t - len(completion)
        left, prompt_mask = [pad_id] * n_left + list(prompt), [0] * n_left + [1] * len(prompt)
        if for_encoder:
            left, prompt_mask = list(prompt) + [pad_id] * n_left, prompt_mask[::-1]
        rows.append(left + list(completion) + [pad_id] * n_right)
        masks.append(prompt_mask + [1] * len(completion) + [0] * n_right)
    attention_mask = torch.tensor(masks, device=device)
    return SequenceBatch(torch.tensor(rows, device=device), attention_mask, attention_mask[:, p:].bool())


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions counted over real tokens only, (b, s); padding gets 0."""
    return (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)


def base_model(model: Any) -> Any:
    """The model that an adapter is attached to; the model itself where there is none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def forward(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, last: int, **kwargs: Any
) -> Any:
    """Runs a causal model with explicit positions; logits come for the last `last` positions only.

    Families that derive positions from the mask (Bloom) are not given any.
    """
    accepted = _parameters(type(base_model(model)).forward)
    if "position_ids" in accepted:
        kwargs["position_ids"] = positions
    if "logits_to_keep" in accepted:
        kwargs["logits_to_keep"] = last
    output = model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
    if output.logits.shape[1] > last:
        output.logits = output.logits[:, -last:]
    return output


def is_encoder_decoder(model: nn.Module) -> bool:
    """True where an encoder reads the prompt and a decoder writes the completion."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def decoder_start(model: Any) -> int:
    """The token that the decoder of an encoder-decoder model reads first; ModelError where the model names none."""
    for place in (getattr(model, "generation_config", None), model.config):
        token_id = getattr(place, "decoder_start_token_id", None)
        if token_id is not None:
            return int(token_id)
    raise ModelError("the model does not say what its decoder starts with: set decoder_start_token_id in its config")


def completion_forward(model: nn.Module, batch: SequenceBatch, *, hidden: bool = False) -> tuple[Tensor, Tensor | None]:
    """One full pass over prompts and completions.

    Returns the logits (b, t, V) that predict each completion token, and with `hidden` the last hidden states
    (b, t, hidden size) that these logits come from.
    """
    t = batch.completion_mask.shape[1]
    if is_encoder_decoder(model):
        completions = batch.completion_ids
        start = completions.new_full((len(batch), 1), decoder_start(model))
        output = model(
            input_ids=batch.input_ids[:, :-t],
            attention_mask=batch.attention_mask[:, :-t],
            decoder_input_ids=torch.cat((start, completions[:, :-1]), dim=1),
            use_cache=False,
            output_hidden_states=hidden,
            return_dict=True,
        )
        return output.logits, output.decoder_hidden_states[-1] if hidden else None
    positions = position_ids(batch.attention_mask)
    output = forward(
        model, batch.input_ids, batch.attention_mask, positions, t + 1, use_cache=False, output_hidden_states=hidden
    )
    states = output.hidden_states[-1][:, -t - 1 : -1] if hidden else None
    return output.logits[:, :-1], states


def token_logprobs(
    logits: Tensor, token_ids: Tensor, temperature: float = 1.0, support: Tensor | None = None
) -> Tensor:
    """Log-probabilities in nats of `token_ids` (b, t) under `logits` (b, t, V) / temperature, in float32: (b, t).

    With `support`, from `sampling_support`, the probabilities are those among its tokens. The given token always counts
    as one of them: sampling decodes step by step, where rounding can let it pass a border that it misses here.
    """
    scaled = logits.float() / temperature
    token_ids = token_ids.unsqueeze(-1)
    if support is None:
        return scaled.gather(-1, token_ids).squeeze(-1) - scaled.logsumexp(dim=-1)
    support = support.expand(scaled.shape).scatter(-1, token_ids, True)
    return scaled.gather(-1, token_ids).squeeze(-1) - scaled.masked_fill(~support, -torch.inf).logsumexp(dim=-1)


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
    # One position at a time, as in sampling: a sort of all of them in float64 would need much memory.
    kept = [
        _support(logits[:, i].double() / decoding.temperature, decoding, eos_id if i < n_banned else None)
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
        ordered, order = scaled.softmax(dim=-1).sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        support = torch.zeros_like(scaled, dtype=torch.bool).scatter(-1, order, before < decoding.top_p)
    return support


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
    two_parts = is_encoder_decoder(model)
    batch = collate(prompt_ids, [()] * len(prompt_ids), pad_id, device, for_encoder=two_parts)
    prompts, mask = batch.input_ids[:, :-1], batch.attention_mask[:, :-1]  # without the column for no completion
    steps = _encoder_decoder_steps(model, prompts, mask) if two_parts else _causal_steps(model, prompts, mask)
    logits = next(steps)
    u, limits = u.to(device), torch.tensor(lengths, device=device)
    finished = torch.zeros(len(lengths), dtype=torch.bool, device=device)
    is_finite = torch.ones((), dtype=torch.bool, device=device)  # read once, at the end: no waiting for the device
    drawn: list[Tensor] = []
    for step in range(max(lengths)):
        is_finite &= torch.isfinite(logits).all()
        probabilities = sampling_probabilities(logits, decoding, eos_id, step)
        token = inverse_cdf(probabilities, u[:, step]).clamp(max=logits.shape[-1] - 1)
        drawn.append(token)
        finished |= limits == step + 1
        if eos_id is not None:
            finished |= token == eos_id
        if bool(finished.all()):
            break
        logits = steps.send(token)
    if not bool(is_finite):
        raise ModelError("the policy's logits are not finite; if it is being trained, lower method.learning_rate")
    return [_cut(row, length, eos_id) for row, length in zip(torch.stack(drawn, dim=1).tolist(), lengths, strict=True)]


def _causal_steps(model: nn.Module, tokens: Tensor, mask: Tensor) -> Generator[Tensor, Tensor]:
    """Yields the logits (b, V) of the next token and is sent the token (b,), over and over."""
    positions, past = position_ids(mask), None
    while True:
        output = forward(model, tokens, mask, positions, 1, past_key_values=past, use_cache=True)
        token = yield output.logits[:, -1]
        past, tokens = output.past_key_values, token.unsqueeze(-1)
        mask = torch.cat((mask, torch.ones_like(tokens)), dim=1)
        positions = positions[:, -1:] + 1


def _encoder_decoder_steps(model: nn.Module, prompts: Tensor, mask: Tensor) -> Generator[Tensor, Tensor]:
    """`_causal_steps` for a decoder; the encoder runs once."""
    tokens = prompts.new_full((len(prompts), 1), decoder_start(model))
    options: dict[str, Any] = {"attention_mask": mask, "use_cache": True, "return_dict": True}
    output = model(input_ids=prompts, decoder_input_ids=tokens, **options)
    encoded = (output.encoder_last_hidden_state,)
    while True:
        token = yield output.logits[:, -1]
        past, tokens = output.past_key_values, token.unsqueeze(-1)
        output = model(encoder_outputs=encoded, decoder_input_ids=tokens, past_key_values=past, **options)


def _cut(tokens: list[int], length: int, eos_id: int | None) -> Sampled:
    tokens = tokens[:length]
    if eos_id in tokens:
        return Sampled(tuple(tokens[: tokens.index(eos_id) + 1]), "eos")
    return Sampled(tuple(tokens), "length")
