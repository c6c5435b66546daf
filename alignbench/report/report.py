"""A report as data: its title and its sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from alignbench.comparison.compare import compare
from alignbench.comparison.comparison import Comparison
from alignbench.report.blocks import Block, Figure, Section
from alignbench.report.material import Material, gather
from alignbench.report.published import PublishedTable
from alignbench.report.sample import MOST_PROMPTS
from alignbench.report.sections.answer import answer
from alignbench.report.sections.conditions import conditions
from alignbench.report.sections.pictures import pictures
from alignbench.report.sections.published import published_rows
from alignbench.report.sections.reproduction import reproduction
from alignbench.report.sections.tables import all_tables, flags, warnings
from alignbench.report.sections.texts import texts
from alignbench.results.reader import Paths


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a report is asked for."""

    baseline: str | None = None
    protocol: str | None = None
    allow_mismatch: bool = False
    published: PublishedTable | None = None
    metric: str | None = None
    """What it is about, as METRIC@SCORER; None: mean toxicity by a held-out judge."""
    most_prompts: int = MOST_PROMPTS
    """Whose texts are shown."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a page shows, in its order."""

    title: str
    warnings: Sequence[Block]
    sections: Sequence[Section]
    alignbench: str = field(default="")
    """Version of what wrote it."""

    @property
    def figures(self) -> list[Figure]:
        """The pictures."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]


def report(paths: Paths, wanted: Wanted | None = None) -> Report:
    """Compares the runs below some paths, and returns what is to be shown of them.

    Raises:
        NothingComparedError: There are fewer than two recipes.
        ResultsError, UsageError: As `compare` raises them.
    """
    from alignbench._version import __version__

    wanted = wanted or Wanted()
    comparison = compare(paths, wanted.baseline, wanted.allow_mismatch, wanted.protocol, metric=wanted.metric)
    comparison.require_two()
    material = gather(paths, comparison)
    return Report(_title(comparison), warnings(material), list(_sections(material, wanted)), __version__)


def _title(comparison: Comparison) -> str:
    if not comparison.recipes:
        return f"alignbench: {sum(map(len, comparison.reward_models))} reward models"
    return f"alignbench: {len(comparison.recipes)} recipes under {comparison.protocol}"


def _sections(material: Material, wanted: Wanted) -> Iterator[Section]:
    if material.rows:
        yield answer(material)
        yield pictures(material)
        yield texts(material, wanted.most_prompts)
    if (found := flags(material)) is not None:
        yield found
    yield all_tables(material)
    if wanted.published is not None:
        yield published_rows(material, wanted.published)
    yield conditions(material)
    options = {
        name: value for name in ("metric", "baseline", "protocol") if (value := getattr(wanted, name)) is not None
    }
    yield reproduction(material, options)
