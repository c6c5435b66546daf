"""What a reader asks `compare` to print, and the text that answers it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from alignbench.comparison.along import Place
from alignbench.comparison.asked_tables import along, on_frontier
from alignbench.comparison.columns import Columns
from alignbench.comparison.comparison import Comparison
from alignbench.comparison.document import require_sections
from alignbench.comparison.formats import writer
from alignbench.comparison.grid import terminal_width
from alignbench.comparison.page import example_lines
from alignbench.comparison.text_table import details
from alignbench.comparison.writers import table
from alignbench.errors import ResultsError, UsageError


@dataclass(frozen=True)
class Asked:
    """Options that decide what is printed, and nothing of what is compared."""

    style: str = "table"
    details: bool = False
    sections: tuple[str, ...] = ()
    texts: int | None = None
    columns: str | None = None
    sort: str | None = None
    at: str | None = None
    frontier: str | None = None

    @property
    def format(self) -> str:
        """The format that is written."""
        return "details" if self.style == "table" and (self.details or self.sections) else self.style

    @property
    def _other(self) -> str:
        return "--details" if self.format == "details" else f"--format {self.format}"

    @property
    def is_page(self) -> bool:
        """True where the answer and the one table are shown."""
        return self.format == "table" and all(one is None for one in (self.texts, self.at, self.frontier))

    def check(self) -> None:
        """UsageError where options do not go together, or name what there is not."""
        writer(self.format)
        require_sections(self.sections)
        if self.sections and self.format != "details":
            raise UsageError(f"--section is one of --details; --format {self.style} has always all of them")
        if self.at is not None:
            Place.parse(self.at)
        asked = {"--columns": self.columns, "--texts": self.texts, "--at": self.at, "--frontier": self.frontier}
        for name, value in asked.items():
            if value is not None and self.format != "table":
                raise UsageError(f"{name} is for the table alone, not for {self._other}")


def shown(comparison: Comparison, asked: Asked) -> str:
    """Returns what was asked for."""
    if asked.format == "table" and not asked.is_page:
        parts = [_in_place_of_the_page(one, asked) for one in comparison.blocks or (comparison,)]
        return "\n\n".join("\n".join(lines) for lines in parts)
    if asked.format == "table":
        return table.written(comparison, _names(asked.columns), asked.sort)
    if asked.sort is not None and comparison.key is not None and comparison.recipes:
        first, *others = comparison.recipes
        others = Columns(comparison, comparison.key).sorted(others, asked.sort)
        comparison = replace(comparison, recipes=(first, *others))
    if asked.format == "details":
        return details(comparison, asked.sections)
    return writer(asked.format)(comparison)


def _names(said: str | None) -> list[str]:
    return [one.strip() for one in (said or "").split(",") if one.strip()]


def _in_place_of_the_page(comparison: Comparison, asked: Asked) -> list[str]:
    width = terminal_width()
    lines = [f"MODEL  {comparison.model}"] if comparison.model else []
    if asked.at is not None:
        lines += along(comparison, Place.parse(asked.at), width)
    if asked.frontier is not None:
        lines += on_frontier(comparison, _names(asked.frontier), width)
    return lines if asked.texts is None else [*lines, *_texts(comparison, asked.texts, width)]


def _texts(comparison: Comparison, n: int, width: int) -> list[str]:
    found = comparison.examples(n=n)
    if not found:
        raise ResultsError("there are no texts to show: two recipes are needed, with completions that one judge scored")
    lines = [line for i, one in enumerate(found, 1) for line in example_lines(one, width, f"{i:3}", hides=False)]
    return ["From the largest fall of the score to the largest rise; nothing is left out.", *lines]
