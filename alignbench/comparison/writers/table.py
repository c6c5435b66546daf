"""Writer for the terminal: the answer, one table and what has to be known, in as many columns as there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from alignbench.comparison.comparison import Comparison
from alignbench.comparison.grid import grid, terminal_width
from alignbench.comparison.models import AcrossModels
from alignbench.comparison.page import View, page, remarks
from alignbench.comparison.text_table import details


def write(comparison: Comparison) -> str:
    """Returns a comparison as text of no more than 40 lines for up to ten recipes."""
    return written(comparison, (), None)


def written(comparison: Comparison, columns: Sequence[str], sort: str | None) -> str:
    """Returns the same with columns of the table by name, and rows sorted by one."""
    view = View(terminal_width(), tuple(columns), sort)
    if comparison.across is not None:
        return "\n".join(_of_models(comparison, comparison.across, view))
    return "\n".join(page(comparison, view)) or details(comparison)  # where no policy has any toxicity


def _of_models(comparison: Comparison, across: AcrossModels, view: View) -> Iterator[str]:
    """Yields a page for each model, and at the end what they have in common."""
    for block in comparison.blocks:
        yield from (f"MODEL  {block.model}", *(page(block, view) or [details(block)]), "")
    header, rows = across.table()
    yield "MODELS  Verdicts on each model, against its own baseline; nothing is tested across models."
    yield from grid(header, rows, [place <= len(across.models) for place in range(len(header))])
    yield across.carries_over
    yield from (*comparison.notes, *remarks(comparison, view.width))


plugin = write
