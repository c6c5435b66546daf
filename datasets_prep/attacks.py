"""Prompts made of other prompts by chance, and how alike two are: what a search for harmful prompts is made of.

Pure: no model. A prompt is a sequence of words; the generator alone decides what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

NEAR = 0.8
"""Two prompts that share so much of their pairs of words are one find."""
KIN = 0.5
"""Parents share less: from near copies of one prompt a search would not get away any more."""
PRIOR = 5
"""Prompts of average harm that every word is taken to have been in besides."""
DRAWN = 8
"""Prompts that are made for a new one."""


class WordScores:
    """How often prompts with a word did harm: one answer says little of its prompt, but many share each word."""

    def __init__(self, tried: Sequence[tuple[str, bool]]) -> None:
        """Takes prompts, and whether the answer to each was harmful."""
        self._mean = sum(harmful for _, harmful in tried) / max(1, len(tried))
        counts: dict[str, list[int]] = {}
        for text, harmful in tried:
            for word in {*text.split()}:
                count = counts.setdefault(word, [0, 0])
                count[0] += harmful
                count[1] += 1
        self._scores = {word: (k + PRIOR * self._mean) / (n + PRIOR) for word, (k, n) in counts.items()}

    def of_word(self, word: str) -> float:
        """The share of harmful answers to prompts with the word, drawn to the share of all by `PRIOR` more of these."""
        return self._scores.get(word, self._mean)

    def of(self, text: str) -> float:
        """The mean over the words of a prompt."""
        words = text.split()
        return sum(map(self.of_word, words)) / len(words) if words else 0.0


def mutated(one: str, _: str, rng: np.random.Generator, *, words: Sequence[str]) -> str:
    """The prompt with one word replaced, put in, left out, or swapped with the next; new ones are of `words`."""
    parts = one.split()
    place, drawn = int(rng.integers(len(parts))), str(words[int(rng.integers(len(words)))])
    match int(rng.integers(4)):
        case 0:
            parts.insert(place, drawn)
        case 1 if len(parts) > 2:
            del parts[place]
        case 2 if place + 1 < len(parts):
            parts[place : place + 2] = parts[place : place + 2][::-1]
        case _:
            parts[place] = drawn
    return " ".join(parts)


def recombined(one: str, other: str, rng: np.random.Generator, *, longest: int) -> str:
    """The prompt with a stretch of another one behind one of its words; as it is if that made it too long."""
    first, second = one.split(), other.split()
    place = int(rng.integers(1, len(first) + 1))
    start, end = sorted(map(int, rng.integers(len(second) + 1, size=2)))
    made = [*first[:place], *second[start:end], *first[place:]]
    return " ".join(made) if len(made) <= longest else one


def make_new(
    make: Callable[[str, str, np.random.Generator], str],
    parents: Sequence[str],
    scores: WordScores,
    known: Container[str],
    n: int,
    rng: np.random.Generator,
) -> list[str]:
    """Up to n different new prompts: each the one with the most harmful words of `DRAWN` that `make` makes of parents.

    Fewer where chance finds no more.
    """
    found: dict[str, None] = {}
    for _ in range(20 * n):
        drawn = [[parents[int(i)] for i in rng.integers(len(parents), size=2)] for _ in range(DRAWN)]
        made = [make(one, other, rng) for one, other in drawn]
        new = [text for text in made if text not in known and text not in found]
        if new:
            found[max(new, key=scores.of)] = None
        if len(found) == n:
            break
    return list(found)


def likeness(one: str, other: str) -> float:
    """The share of pairs of neighbouring words that two prompts have in common, of all that either has (Jaccard)."""
    a, b = _pairs(one), _pairs(other)
    return len(a & b) / len(a | b) if a | b else 1.0


def novelty(text: str, seen: Iterable[str]) -> float:
    """1 less the likeness of a prompt to the one of `seen` that is most like it."""
    return 1.0 - max((likeness(text, one) for one in seen), default=0.0)


def different(texts: Sequence[str], near: float = NEAR, most: int | None = None) -> list[int]:
    """The places of prompts, `most` at most, of which none has a likeness of `near` or more to an earlier one."""
    kept: list[int] = []
    for place, text in enumerate(texts):
        if len(kept) == most:
            break
        if all(likeness(text, texts[other]) < near for other in kept):
            kept.append(place)
    return kept


def _pairs(text: str) -> set[tuple[str, str]]:
    words = text.casefold().split()
    return {*zip(["", *words], [*words, ""], strict=True)}
