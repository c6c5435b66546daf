"""What a model that is asked in words must offer, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from alignbench.records import Cost


@dataclass(frozen=True, slots=True)
class Question:
    """One question, put to a model as the turn of a user."""

    text: str
    max_tokens: int
    """The most tokens that may be answered."""
    words: tuple[str, ...] = ()
    """Ask for the probabilities of these words at the first position of the answer, in place of a text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a text, or probabilities; neither where there is none, and then why."""

    text: str | None = None
    probabilities: Mapping[str, float] | None = None
    """Of the words that were asked for; what the model did not tell is 0."""
    n_read: int = 0
    """Tokens of the question, as the model counts them."""
    n_written: int = 0
    """Tokens of the answer."""
    problem: str | None = None
    """Why there is no answer, in words."""

    @property
    def is_one(self) -> bool:
        """True where there is an answer."""
        return self.text is not None or self.probabilities is not None


class ChatModel(Protocol):
    """A local model, one behind an endpoint, or a script."""

    @property
    def identity(self) -> Sequence[object]:
        """What decides its answers, JSON-like: hash of the weights, or the model's name and what its server says."""
        ...

    @property
    def spent(self) -> Cost:
        """FLOPs and money so far; tokens are counted by who asks."""
        ...

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Answers each question; nothing that goes wrong with one of them is raised, but told in its answer."""
        ...
