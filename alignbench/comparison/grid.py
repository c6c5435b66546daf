"""Plain text in columns: how wide a terminal is, and how a table, a long line or a hostile text is set in it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

NARROWEST, WIDEST, OF_A_PIPE = 80, 200, 120
"""Columns: a terminal with fewer than the narrowest breaks lines, and a pipe has no width of its own."""
_GAP = "  "
_CUT = "..."


def terminal_width() -> int:
    """Returns how many columns to write for: the terminal's, or those that COLUMNS names."""
    return min(WIDEST, max(NARROWEST, shutil.get_terminal_size((OF_A_PIPE, 24)).columns))


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[bool]) -> list[str]:
    """Returns a header and rows in columns; those of `left` begin at the left, others end at the right."""
    lines = [header, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(header))]
    return [
        _GAP.join(
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    ]


def width_of(column: Sequence[str]) -> int:
    """Returns the characters that a column takes, with the gap before it."""
    return len(_GAP) + max(map(len, column))


def cut(text: str, width: int) -> str:
    """Returns a text of at most so many characters: its end is left out."""
    return text if len(text) <= width else text[: max(0, width - len(_CUT))].rstrip() + _CUT


def cut_name(name: str, width: int) -> str:
    """Returns a name of at most so many characters: its middle is left out, names often differ in their ends."""
    if len(name) <= width:
        return name
    end = (width - len(_CUT)) // 2
    return name[: width - len(_CUT) - end] + _CUT + name[len(name) - end :]


def titled(title: str, text: str, width: int, most: int = 3) -> list[str]:
    """Returns a text beside its title, on no more than so many lines; what does not fit is left out.

    Nothing where there is no text.
    """
    if not text:
        return []
    indent = " " * (len(title) + 2)
    lines = textwrap.wrap(
        text.replace(" %", "\u00a0%"),  # a number stays beside its unit
        width,
        initial_indent=f"{title}  ",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = [line.replace("\u00a0%", " %") for line in lines]
    if len(lines) > most:
        last = lines[most - 1]
        while len(last) + 1 + len(_CUT) > width and " " in last.strip():
            last = last.rpartition(" ")[0].rstrip()
        lines = [*lines[: most - 1], f"{cut(last, width - 1 - len(_CUT))} {_CUT}"]
    return lines


def printable(text: str) -> str:
    """Returns a text on one line without what could steer a terminal: whatever is not to be seen becomes `?`."""
    return "".join(one if one.isprintable() else "?" for one in " ".join(text.split()))
