"""Tokens that a model reads in front of a prompt and can never write: embeddings of their own, and no output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from alignbench.models.forward import SequenceBatch, base_model
from alignbench.models.language_model import LanguageModel
from alignbench.records import Prompt
from alignbench.runtime.randomness import generator


class ControlEmbedding(nn.Module):
    """The embeddings of a model's V words, and of n more tokens with the ids V to V + n - 1."""

    def __init__(self, words: Any, controls: Tensor) -> None:
        super().__init__()
        self.words, self.controls = words, nn.Parameter(controls)

    @property
    def weight(self) -> Tensor:
        """Embeddings of the words alone, (V, d): those that an output layer may be tied to."""
        weight: Tensor = self.words.weight
        return weight

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings of token ids (...,): (..., d)."""
        n_words = self.weight.shape[0]
        found: Tensor = self.words(ids.clamp(max=n_words - 1))
        of_controls = self.controls[(ids - n_words).clamp(min=0)]
        return torch.where((ids >= n_words).unsqueeze(-1), of_controls.to(found.dtype), found)


class ControlledModel(LanguageModel):
    """A language model that reads one of n control tokens in front of every prompt; the tokens are trainable.

    It has the weights of the model that it is made of, and takes its place: the other must not be used any more.
    """

    def __init__(self, policy: LanguageModel, controls: Tensor) -> None:
        """Puts control tokens (n, d) beside the words of a model; an encoder-decoder model's encoder reads them."""
        self.__dict__.update(policy.__dict__)
        inner = base_model(self.model)
        self.embedding = ControlEmbedding(inner.get_input_embeddings(), controls)
        inner.set_input_embeddings(self.embedding)
        self.control: int | None = None
        """The one that is read; None is none."""

    @property
    def n_words(self) -> int:
        """Tokens of the model without these."""
        return self.embedding.weight.shape[0]

    def encode_prompts(self, prompts: Sequence[Prompt | str]) -> list[list[int]]:
        """Token ids of prompts, each behind that of the control token."""
        return self.encode_controlled(prompts, [self.control] * len(prompts))

    def encode_controlled(self, prompts: Sequence[Prompt | str], controls: Sequence[int | None]) -> list[list[int]]:
        """The same with control tokens of the caller's choice."""
        encoded = super().encode_prompts(prompts)
        beside = zip(encoded, controls, strict=True)
        return [ids if control is None else [self.n_words + control, *ids] for ids, control in beside]

    def decode(
        self, token_ids: Sequence[int], prompt_ids: Sequence[int] = (), *, skip_special_tokens: bool = True
    ) -> str:
        """Text of a completion; a control token has none."""
        words = [token for token in prompt_ids if token < self.n_words]
        return super().decode(token_ids, words, skip_special_tokens=skip_special_tokens)

    def without_controls(self, batch: SequenceBatch) -> SequenceBatch:
        """The batch as it is without control tokens: where they stand is padding, behind the prompt for an encoder."""
        is_control = batch.input_ids >= self.n_words
        ids, mask = batch.input_ids.masked_fill(is_control, 0), batch.attention_mask.masked_fill(is_control, 0)
        if batch.for_encoder:  # it may count positions from the first column
            t = batch.completion_mask.shape[1]
            order = is_control[:, :-t].int().argsort(dim=1, stable=True)
            ids, mask = (torch.cat([one[:, :-t].gather(1, order), one[:, -t:]], dim=1) for one in (ids, mask))
        return replace(batch, input_ids=ids, attention_mask=mask)

    @contextmanager
    def words_alone(self) -> Iterator[None]:
        """Within the block the network has its own embeddings, as it is saved."""
        inner = base_model(self.model)
        inner.set_input_embeddings(self.embedding.words)
        try:
            yield
        finally:
            inner.set_input_embeddings(self.embedding)


def new_controls(policy: LanguageModel, n: int, seed: int) -> Tensor:
    """Fresh embeddings of n control tokens, (n, d), drawn with the mean and deviation of the words' by the seed."""
    words: Tensor = base_model(policy.model).get_input_embeddings().weight.detach().float()
    drawn = torch.from_numpy(generator(seed, "control tokens").normal(size=(n, words.shape[1])))
    return (words.mean(dim=0) + drawn.to(words) * words.std(dim=0)).to(words.dtype)
