"""Tables that are wider than a terminal: columns in groups, and their names on several lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

WIDTH = 120
"""Of a table, in characters: what a terminal holds. Wider ones are continued below, in every format."""
_HEADER_WIDTH = 10


def chunks(columns: Sequence[tuple[str, list[str]]], width: int) -> Iterator[list[tuple[str, list[str]]]]:
    """Yields the columns in groups that fit the width of a terminal."""
    chunk: list[tuple[str, list[str]]] = []
    used = 0
    for name, cells in columns:
        needs = 3 + max(map(len, [*broken(name).split("\n"), *cells]))
        if chunk and used + needs > width:
            yield chunk
            chunk, used = [], 0
        chunk.append((name, cells))
        used += needs
    if chunk:
        yield chunk


def broken(name: str) -> str:
    """Returns a column's name on several short lines."""
    lines = [""]
    for word in re.findall(r"[ @]?[^ _@]+_?", name):
        if lines[-1] and len(lines[-1] + word) > _HEADER_WIDTH:
            lines.append(word.strip())
        else:
            lines[-1] += word
    return "\n".join(lines)
