"""Words of texts and their n-grams, as several metrics count them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

LENGTHS = (1, 2, 3)
"""Of the n-grams that distinct-n is measured for."""


def ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """Yields the n-grams of one text."""
    return zip(*(words[start:] for start in range(n)), strict=False)


def is_empty(text: str) -> bool:
    """True where the text has no word."""
    return not text.strip()
