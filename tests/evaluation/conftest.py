"""A policy over four tokens whose distribution is known, a policy that says what it is told, and scorers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from alignbench.records import Completion, Cost, Decoding, Prompt
from alignbench.runtime.randomness import generator

END = 0
WORDS = {1: "kind", 2: "rude", 3: "grey"}


class CategoricalPolicy:
    """Draws every token from one categorical distribution over end, kind, rude and grey."""

    def __init__(self, probabilities: Sequence[float]) -> None:
        self.probabilities = np.asarray(probabilities, dtype=np.float64)
        self.calls: list[tuple[int, Decoding, int, tuple[int | str, ...]]] = []
        self.most_distributions = 0
        self.spent = Cost()

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> list[Completion]:
        self.calls.append((len(prompts), decoding, n_samples, tuple(key)))
        drawn = [self._one(prompt, i, decoding, key) for prompt in prompts for i in range(n_samples)]
        self.spent.generated_tokens += sum(len(completion.token_ids) for completion in drawn)
        return drawn

    def _one(self, prompt: Prompt, sample: int, decoding: Decoding, key: Sequence[int | str]) -> Completion:
        drawn = (
            generator(*key, prompt.id, sample).choice(4, size=decoding.max_new_tokens, p=self.probabilities).tolist()
        )
        ended = END in drawn
        tokens = tuple(drawn[: drawn.index(END) + 1] if ended else drawn)
        text = " ".join(WORDS[token] for token in tokens if token != END)
        return Completion(prompt.id, sample, text, tokens, "eos" if ended else "length")

    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[torch.Tensor] | None:
        logs = torch.tensor(self.probabilities).log().float()
        return [logs[list(completion.token_ids)] for completion in completions]

    def next_token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[torch.Tensor]:
        self.most_distributions = max(self.most_distributions, len(completions))
        logs = torch.tensor(self.probabilities).log()
        return [logs.expand(len(completion.token_ids), -1) for completion in completions]

    def save(self, directory: Path) -> None:
        raise NotImplementedError


class ScriptedPolicy:
    """Answers each prompt with given texts, one token a word, every token with log-probability `logprob`."""

    def __init__(self, texts: Mapping[str, Sequence[str]], logprob: float | None = -1.0) -> None:
        self.texts, self.logprob, self.spent = texts, logprob, Cost()

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> list[Completion]:
        return [
            Completion(prompt.id, i, text, (*range(1, len(text.split()) + 1), END), "eos")
            for prompt in prompts
            for i, text in enumerate(self.texts[prompt.id][:n_samples])
        ]

    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[torch.Tensor] | None:
        if self.logprob is None:
            return None
        return [torch.full((len(completion.token_ids),), self.logprob) for completion in completions]

    def save(self, directory: Path) -> None:
        raise NotImplementedError


class FunctionScorer:
    """Scores by a function of the completion."""

    def __init__(self, name: str, function: Callable[[str], float | None]) -> None:
        self.name, self.function, self.seen_prompts = name, function, set[str]()

    @property
    def fingerprint(self) -> str:
        return f"fingerprint of {self.name}"

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float | None]:
        self.seen_prompts |= set(prompts)
        return [self.function(completion) for completion in completions]


@pytest.fixture
def categorical() -> type[CategoricalPolicy]:
    return CategoricalPolicy


@pytest.fixture
def scripted() -> type[ScriptedPolicy]:
    return ScriptedPolicy


@pytest.fixture
def function_scorer() -> type[FunctionScorer]:
    return FunctionScorer


@pytest.fixture
def share_rude() -> FunctionScorer:
    """Share of rude words; a text without words scores 0."""
    return FunctionScorer("judge", lambda text: text.split().count("rude") / max(1, len(text.split())))


@pytest.fixture
def make_prompts() -> Callable[[int], list[Prompt]]:
    return lambda n: [Prompt(f"p{i}", f"text number {i}") for i in range(n)]
