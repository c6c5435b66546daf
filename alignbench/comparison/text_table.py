"""Sections as plain text of 120 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import StringIO

from alignbench.comparison.chunks import WIDTH, broken
from alignbench.comparison.comparison import Comparison
from alignbench.comparison.document import Section, document

_GAP = "   "
"""Between two columns."""


def details(comparison: Comparison, sections: Sequence[str] = ()) -> str:
    """Returns some sections of a comparison by their names, or all."""
    whole = document(comparison)
    watermark = "\n  ".join(whole.watermark)
    parts = [watermark, whole.headline]
    parts += [table(one) for one in whole.sections if not sections or one.name in sections]
    parts += [
        "\n".join([f"{title}:", *_bullets(lines)])
        for title, lines in whole.lists
        if not sections or title.lower().split()[-1] in sections
    ]
    return "\n\n".join(part.rstrip() for part in parts if part)


def _bullets(lines: Sequence[str]) -> list[str]:
    return [
        textwrap.fill(
            line, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
        for line in lines
    ]


def table(section: Section) -> str:
    """Returns one table with its title above and its remarks below."""
    lines = in_full(section) if section.rows else None
    return "\n".join((folded(section) if lines is None else lines) + _fill(section.remarks))


def in_full(section: Section) -> list[str] | None:
    """Returns the lines of a table that needs no folding, as `folded` would have them; None of one that does.

    The library that folds takes a millisecond for each row.
    """
    heads = [broken(name).split("\n") for name in section.header]
    columns = [[*head, *cells] for head, cells in zip(heads, zip(*section.rows, strict=True), strict=True)]
    widths = [max(map(len, cells)) for cells in columns]
    whole = sum(widths) + len(_GAP) * (len(widths) - 1)
    texts = [section.title, *(cell for cells in columns for cell in cells)]
    is_plain = all(one.isascii() and one.isprintable() and one == one.strip() for one in texts)
    if not is_plain or whole > WIDTH or not 0 < len(section.title) <= whole:
        return None
    highest = max(map(len, heads))
    header = zip(*([""] * (highest - len(head)) + head for head in heads), strict=True)

    def line(cells: Sequence[str]) -> str:
        sides = (">" if place else "<" for place in range(len(cells)))
        return _GAP.join(
            f"{cell:{side}{width}}" for cell, side, width in zip(cells, sides, widths, strict=True)
        ).rstrip()

    return [section.title, *map(line, header), "-" * whole, *map(line, section.rows)]


def folded(section: Section) -> list[str]:
    """Returns the lines of a table of which cells may take several."""
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
    return [line.rstrip() for line in text.getvalue().splitlines()]


def _fill(lines: Sequence[str]) -> list[str]:
    return [textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False) for line in lines]
