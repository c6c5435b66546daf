"""Prompts and completions in one batch, and full passes of a model over it.

Shapes: b sequences, p prompt positions, t completion positions (padded on the right), V words of the vocabulary.
A causal model reads prompt and completion as one sequence; of an encoder-decoder model (T5) the encoder reads the
prompt, and the decoder writes the completion.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignbench.errors import ModelError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """Prompts and completions side by side: the completion of every row starts in the same column."""

    input_ids: Tensor
    """(b, p + t): the prompt, padded on the left, or on the right for an encoder; then the completion."""
    attention_mask: Tensor
    """(b, p + t), 1 on real tokens."""
    completion_mask: Tensor
    """(b, t), True on real completion tokens, a sampled end-of-sequence token included."""
    lengths: Tensor
    """(b, 2), tokens of prompt and of completion; on the CPU, so that reading them waits for no device."""
    for_encoder: bool
    """True where prompts are padded on the right."""

    @property
    def completion_ids(self) -> Tensor:
        """(b, t)."""
        return self.input_ids[:, -self.completion_mask.shape[1] :]

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def rows(self, index: Tensor | slice) -> SequenceBatch:
        """Returns some of the rows, padded as before; a tensor of indices may be on the CPU or beside the rows."""
        on_cpu = index.cpu() if isinstance(index, Tensor) else index
        beside = to_device(index, self.input_ids.device) if isinstance(index, Tensor) else index
        return SequenceBatch(
            self.input_ids[beside],
            self.attention_mask[beside],
            self.completion_mask[beside],
            self.lengths[on_cpu],
            self.for_encoder,
        )

    @property
    def columns(self) -> tuple[slice, slice]:
        """Those of the prompts, and of the completions (one at least), in which any row has a token."""
        p = self.input_ids.shape[1] - self.completion_mask.shape[1]
        longest, t = self.lengths.max(dim=0).values.tolist()
        return slice(0, longest) if self.for_encoder else slice(p - longest, p), slice(0, max(1, t))

    def trimmed(self) -> SequenceBatch:
        """Returns the same rows without columns of padding alone."""
        prompt, completion = self.columns
        p = self.input_ids.shape[1] - self.completion_mask.shape[1]
        kept = [*range(p)[prompt], *range(p, p + completion.stop)]
        if len(kept) == self.input_ids.shape[1]:
            return self
        where = to_device(torch.tensor(kept), self.input_ids.device)
        return SequenceBatch(
            self.input_ids[:, where],
            self.attention_mask[:, where],
            self.completion_mask[:, completion],
            self.lengths,
            self.for_encoder,
        )

    def split(self, n_rows: int) -> list[SequenceBatch]:
        """Returns the rows in batches of up to this many."""
        return [self.rows(slice(start, start + n_rows)) for start in range(0, len(self), n_rows)]


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
    attention_mask = to_device(torch.tensor(masks), device)
    lengths = torch.tensor([[len(p), len(c)] for p, c in zip(prompt_ids, completion_ids, strict=True)])
    return SequenceBatch(
        to_device(torch.tensor(rows), device), attention_mask, attention_mask[:, p:].bool(), lengths, for_encoder
    )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; copied from the CPU to a GPU by pinned memory, so that the host does not wait."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions counted over real tokens only, (b, s); padding gets 0."""
    return (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)


def base_model(model: Any) -> Any:
    """The model that an adapter is attached to; the model itself where there is none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def compute_again(model: nn.Module) -> None:
    """Has a model compute its activations again in every backward pass, instead of keeping them."""
    base = base_model(model)
    if hasattr(base, "activation_checkpointing_enable"):
        base.activation_checkpointing_enable()
    else:  # transformers 5.17
        base.gradient_checkpointing_enable()


def accepts(model: Any, parameter: str) -> bool:
    """True where the forward pass of a model has a parameter of this name."""
    return parameter in parameters_of(type(base_model(model)).forward)


@cache
def parameters_of(function: Callable[..., Any]) -> frozenset[str]:
    """Names of what a function takes."""
    return frozenset(inspect.signature(function).parameters)


def forward(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, last: int, **kwargs: Any
) -> Any:
    """Runs a causal model with explicit positions; logits come for the last `last` positions only.

    Families that derive positions from the mask (Bloom) are not given any.
    """
    if accepts(model, "position_ids"):
        kwargs["position_ids"] = positions
    if accepts(model, "logits_to_keep"):
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
    # Nothing follows the last token, so the model need not read it.
    ids, mask = batch.input_ids[:, :-1], batch.attention_mask[:, :-1]
    output = forward(model, ids, mask, position_ids(mask), t, use_cache=False, output_hidden_states=hidden)
    return output.logits, output.hidden_states[-1][:, -t:] if hidden else None


def token_logprobs(
    logits: Tensor, token_ids: Tensor, temperature: float = 1.0, support: Tensor | None = None
) -> Tensor:
    """Log-probabilities in nats of `token_ids` (b, t) under `logits` (b, t, V) / temperature, in float32: (b, t).

    With `support`, from `sampling_support`, the probabilities are those among its tokens. The given token always counts
    as one of them: sampling decodes step by step, where rounding can let it pass a border that it misses here.
    """
    scaled = logits.float() if temperature == 1.0 else logits.float() / temperature
    token_ids = token_ids.unsqueeze(-1)
    if support is None:
        return scaled.gather(-1, token_ids).squeeze(-1) - scaled.logsumexp(dim=-1)
    support = support.expand(scaled.shape).scatter(-1, token_ids, True)
    return scaled.gather(-1, token_ids).squeeze(-1) - scaled.masked_fill(~support, -torch.inf).logsumexp(dim=-1)
