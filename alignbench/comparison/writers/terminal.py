"""Writer for the terminal: plain text, 120 columns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignbench.comparison.document import Document, Section

WIDTH = 120
_HEADER_WIDTH = 10


def write(document: Document) -> str:
    """Returns the document as text."""
    watermark = "\n  ".join(document.watermark)
    parts = [watermark, document.headline, *map(table, document.sections)]
    parts += ["\n".join([f"{title}:", *_bullets(lines)]) for title, lines in document.lists]
    return "\n\n".join(part.rstrip() for part in parts if part)


def table(section: Section) -> str:
    """Returns one table with its title above and its remarks below."""
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table

    rule = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
    grid = Table(title=section.title, title_justify="left", box=rule, show_edge=False, pad_edge=False)
    for place, name in enumerate(section.header):
        # Numbers stay whole; recipes and verdicts may take two lines.
        is_whole = place > 0 and name != "verdict"
        grid.add_column(broken(name), justify="right" if place else "left", overflow="fold", no_wrap=is_whole)
    for row in section.rows:
        grid.add_row(*row)
    text = StringIO()
    Console(file=text, width=WIDTH, color_system=None, highlight=False, markup=False, emoji=False).print(grid)
    return "\n".join([line.rstrip() for line in text.getvalue().splitlines()] + _fill(section.remarks))


def _fill(lines: Sequence[str]) -> list[str]:
    return [textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False) for line in lines]


def broken(name: str) -> str:
    """Returns a column's name on several short lines."""
    lines = [""]
    for word in re.findall(r"[ @]?[^ _@]+_?", name):
        if lines[-1] and len(lines[-1] + word) > _HEADER_WIDTH:
            lines.append(word.strip())
        else:
            lines[-1] += word
    return "\n".join(lines)


def _bullets(lines: Sequence[str]) -> list[str]:
    return [
        textwrap.fill(
            line, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
        for line in lines
    ]
