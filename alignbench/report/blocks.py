"""What a report consists of; how a block is set is the business of `html` and `markdown`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alignbench.report.pictures.picture import Picture
from alignbench.report.sample import Sample


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A few sentences."""

    text: str
    kind: Literal["", "lead", "warning", "remark"] = ""


@dataclass(frozen=True, slots=True)
class Items:
    """A list of sentences."""

    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to be typed, or a file."""

    text: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table."""

    text: str
    order: float | None = None
    """What the column is sorted by; None comes last."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table, with what stands behind it."""

    cells: Sequence[Cell]
    reasons: Sequence[Block] = ()
    """Opened by the cell that `Table.opens` names."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first cell of a row names it."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Row]
    opens: int | None = None
    """The column whose cell opens the reasons of a row."""
    is_sortable: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with the numbers that it shows."""

    picture: Picture
    numbers: Table


@dataclass(frozen=True, slots=True)
class Drawing:
    """A small picture whose numbers stand elsewhere: in another one."""

    picture: Picture


@dataclass(frozen=True, slots=True)
class Fold:
    """What is shown when it is asked for."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Texts:
    """Prompts with what every recipe wrote, side by side."""

    sample: Sample


Block = Paragraph | Items | Code | Table | Figure | Drawing | Fold | Texts


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page."""

    name: str
    """What links lead to."""
    title: str
    blocks: Sequence[Block]


def plain_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Returns a table of texts."""
    return Table(caption, header, [Row([Cell(text) for text in row]) for row in rows])
