"""A language model that is given other prompts than its caller has: an instruction, or an attribute, before each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignbench.records import Completion, Cost, Decoding, Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.models.language_model import LanguageModel


class AskedOtherwise(ABC):
    """Implements `records.Policy` but for `asked` and `save`; what is put before a prompt is part of no completion."""

    def __init__(self, base: LanguageModel) -> None:
        self.base = base

    @abstractmethod
    def asked(self, prompt: Prompt) -> Prompt:
        """Returns the prompt as the model within is given it."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Writes the model within, and what makes its prompts."""

    def _asked(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        return [self.asked(prompt) for prompt in prompts]

    @property
    def spent(self) -> Cost:
        """What the model within has spent, reading what stands before each prompt included."""
        return self.base.spent

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> list[Completion]:
        """Samples completions of prompts."""
        return self.base.generate(self._asked(prompts), decoding, n_samples, key)

    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Tensor]:
        """Log-probabilities in nats, one float32 CPU tensor (len(token_ids),) per completion."""
        return self.base.token_logprobs(self._asked(prompts), completions)

    def next_token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Tensor]:
        """Log-probabilities in nats of every word before each token: a float64 CPU tensor (len(token_ids), V) each."""
        return self.base.next_token_logprobs(self._asked(prompts), completions)

    def text_logprobs(self, texts: Sequence[str], max_tokens: int) -> list[Tensor] | None:
        """Log-probabilities in nats of texts that answer no prompt, and have nothing before them."""
        return self.base.text_logprobs(texts, max_tokens)
