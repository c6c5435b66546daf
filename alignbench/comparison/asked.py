"""What a reader asks `compare` to print, and the text that answers it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from alignbench.comparison.columns import Columns
from alignbench.comparison.comparison import Comparison
from alignbench.comparison.document import require_sections
from alignbench.comparison.formats import writer
from alignbench.comparison.grid import terminal_width
from alignbench.comparison.page import example_lines
from alignbench.comparison.writers import details, table
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
        return self.format == "table" and self.texts is None

    def check(self) -> None:
        """UsageError where options do not go together, or name what there is not."""
        writer(self.format)
        require_sections(self.sections)
        if self.sections and self.format != "details":
            raise UsageError(f"--section is one of --details; --format {self.style} has always all of them")
        for name, value in (("--columns", self.columns), ("--texts", self.texts)):
            if value is not None and self.format != "table":
                raise UsageError(f"{name} is for the table alone, not for {self._other}")


def shown(comparison: Comparison, asked: Asked) -> str:
    """Returns what was asked for."""
    if asked.texts is not None:
        return _texts(comparison, asked.texts)
    if asked.format == "table":
        return table.written(comparison, [one for one in (asked.columns or "").split(",") if one], asked.sort)
    if asked.sort is not None and comparison.key is not None and comparison.recipes:
        first, *others = comparison.recipes
        others = Columns(comparison, comparison.key).sorted(others, asked.sort)
        comparison = replace(comparison, recipes=(first, *others))
    if asked.format == "details":
        return details.written(comparison, asked.sections)
    return writer(asked.format)(comparison)


def _texts(comparison: Comparison, n: int) -> str:
    found = comparison.examples(n=n)
    if not found:
        raise ResultsError("there are no texts to show: two recipes are needed, with completions that one judge scored")
    width = terminal_width()
    lines = [line for i, one in enumerate(found, 1) for line in example_lines(one, width, f"{i:3}", hides=False)]
    return "\n".join(["From the largest fall of the score to the largest rise; nothing is left out.", *lines])
