"""All tables of the comparison, flags and notes: what `alignbench compare --details` has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from alignbench.comparison.comparison import Comparison
from alignbench.comparison.document import Document
from alignbench.comparison.document import Section as Tables
from alignbench.report.blocks import Block, Fold, Items, Paragraph, Section, plain_table
from alignbench.results.reader import SkippedRun


def warnings(whole: Document) -> list[Block]:
    """Returns what has to stand above everything else: that the runs are not comparable."""
    heading, *fields = whole.watermark or [""]
    return [Paragraph(heading, "warning"), Items(fields)] if heading else []


def models(comparison: Comparison) -> Section | None:
    """Returns what carries over from base model to base model; None where there is one."""
    across = comparison.across
    if across is None:
        return None
    header, rows = across.table()
    title = f"{len(comparison.blocks)} base models, each within its own table"
    return Section("models", title, [Paragraph(across.carries_over, "lead"), plain_table(title, header, rows)])


def flags(comparison: Comparison, whole: Document) -> Section | None:
    """Returns flags, notes and skipped runs; None where there are none."""
    skipped = comparison.skipped
    blocks: list[Block] = []
    for title, lines in whole.lists:
        # A page that is passed on names no folder of the machine that it was made on.
        shown = [_skipped(one) for one in skipped] if title == f"{len(skipped)} skipped" else lines
        blocks += [Paragraph(f"{title}:"), Items(shown)]
    return Section("flags", "Flags and notes", blocks) if blocks else None


def _skipped(run: SkippedRun) -> str:
    return str(replace(run, path=Path(*run.path.parts[-2:])))


def all_tables(whole: Document) -> Section:
    """Returns every table, closed."""
    return Section("tables", "All tables", [_fold(one) for one in whole.sections])


def _fold(one: Tables) -> Fold:
    remarks = [Paragraph(remark, "remark") for remark in one.remarks]
    return Fold(one.title, [plain_table(one.title, one.header, one.rows), *remarks])
