"""A report as data: its title and its sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from alignbench._version import __version__
from alignbench.comparison.compare import compare
from alignbench.comparison.comparison import Comparison
from alignbench.comparison.document import Document, document
from alignbench.report.blocks import Block, Figure, Section
from alignbench.report.material import Material, gather
from alignbench.report.published import PublishedTable
from alignbench.report.sample import MOST_BYTES, MOST_PROMPTS
from alignbench.report.sections.answer import answer
from alignbench.report.sections.conditions import conditions
from alignbench.report.sections.pictures import pictures
from alignbench.report.sections.published import published_rows
from alignbench.report.sections.reproduction import reproduction
from alignbench.report.sections.tables import all_tables, flags, models, warnings
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
    alignbench: str
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
    wanted = wanted or Wanted()
    comparison = compare(paths, wanted.baseline, wanted.allow_mismatch, wanted.protocol, metric=wanted.metric)
    comparison.require_two()
    whole = document(comparison)
    tables = gather(paths, comparison)
    sections = [*_sections(comparison, whole, tables, wanted)]
    return Report(_title(comparison), warnings(whole), sections, __version__)


def _title(comparison: Comparison) -> str:
    if comparison.blocks:
        return f"alignbench: {len(comparison.blocks)} base models under {comparison.blocks[0].protocol}"
    if not comparison.recipes:
        return f"alignbench: {sum(map(len, comparison.reward_models))} reward models"
    return f"alignbench: {len(comparison.recipes)} recipes under {comparison.protocol}"


def _sections(comparison: Comparison, whole: Document, tables: Sequence[Material], wanted: Wanted) -> Iterator[Section]:
    if (found := models(comparison)) is not None:
        yield found
    most_bytes = MOST_BYTES // len(tables)
    for one in tables:
        if one.rows:
            yield _of(one, answer(one))
            yield _of(one, pictures(one))
            yield _of(one, texts(one, wanted.most_prompts, most_bytes))
    if (found := flags(comparison, whole)) is not None:
        yield found
    yield all_tables(whole)
    if wanted.published is not None:
        yield published_rows(tables[0].comparison.protocol, wanted.published)
    options = {"metric": wanted.metric, "baseline": wanted.baseline, "protocol": wanted.protocol}
    asked = {name: value for name, value in options.items() if value is not None}
    for one in tables:
        yield _of(one, conditions(one))
        yield _of(one, reproduction(one, asked))


def _of(one: Material, section: Section) -> Section:
    """Returns a section with the name of the base model that it is about, where there are several."""
    if not one.several:
        return section
    return replace(section, name=one.several + section.name, title=f"{one.comparison.model}: {section.title}")
