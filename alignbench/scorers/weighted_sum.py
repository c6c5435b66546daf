"""Several scores as one: their weighted sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignbench.records import Cost, Scorer, fingerprint, total
from alignbench.scorers.base import cut_prompts, modules_of, sources_of, spent_by


@dataclass(frozen=True, slots=True)
class Term:
    """One score and its weight."""

    name: str
    scorer: Scorer
    weight: float


class WeightedSum:
    """The sum of weight times score; None where any term is None. Implements `records.Scorer`."""

    def __init__(self, terms: Sequence[Term], *, name: str) -> None:
        self.terms = tuple(terms)
        self.name = name
        self.term_means: dict[str, float] = {}
        """Mean of each term over what it scored in the last call, before its weight."""

    @property
    def fingerprint(self) -> str:
        """Hash of the terms' fingerprints and weights."""
        return fingerprint([[term.scorer.fingerprint, term.weight] for term in self.terms])

    @property
    def sources(self) -> tuple[str, ...]:
        """What the score comes from: the sources of every term."""
        return tuple(source for term in self.terms for source in sources_of(term.scorer))

    @property
    def modules(self) -> tuple[Any, ...]:
        """All modules that scoring runs; none where a term does not say."""
        parts = [modules_of(term.scorer) for term in self.terms]
        return tuple(module for part in parts for module in part) if all(parts) else ()

    @property
    def spent(self) -> Cost:
        """What the terms have spent so far; a Python function or a word list counts as nothing."""
        return total(spent_by(term.scorer) for term in self.terms)

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float | None]:
        """Scores completions[i] given prompts[i] by every term."""
        columns = [term.scorer.score(prompts, completions) for term in self.terms]
        scored = [[value for value in column if value is not None] for column in columns]
        self.term_means = {
            term.name: sum(values) / len(values) for term, values in zip(self.terms, scored, strict=True) if values
        }
        return [self.combined(row) for row in zip(*columns, strict=True)]

    def cut_prompts(self, prompts: Sequence[str], completions: Sequence[str]) -> list[bool]:
        """Which completions any term reads after a prompt that has lost its beginning."""
        columns = [cut_prompts(term.scorer, prompts, completions) for term in self.terms]
        return [any(row) for row in zip(*columns, strict=True)]

    def combined(self, scores: Sequence[float | None]) -> float | None:
        """The score of one completion from those of the terms."""
        whole = 0.0
        for term, score in zip(self.terms, scores, strict=True):
            if score is None:
                return None
            whole += term.weight * score
        return whole
