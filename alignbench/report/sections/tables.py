"""All tables of the comparison, flags and notes: what `alignbench compare` knows."""

from __future__ import annotations

from alignbench.comparison.document import Section as Tables
from alignbench.report.blocks import Block, Fold, Items, Paragraph, Section, plain_table
from alignbench.report.material import Material


def warnings(material: Material) -> list[Block]:
    """Returns what has to stand above everything else: that the runs are not comparable."""
    heading, *fields = material.document.watermark or [""]
    return [Paragraph(heading, "warning"), Items(fields)] if heading else []


def flags(material: Material) -> Section | None:
    """Returns flags, notes and skipped runs; None where there are none."""
    found = material.document.lists
    blocks: list[Block] = []
    for title, lines in found:
        blocks += [Paragraph(f"{title}:"), Items(lines)]
    return Section("flags", "Flags and notes", blocks) if blocks else None


def all_tables(material: Material) -> Section:
    """Returns every table, closed."""
    whole = material.document
    return Section("tables", "All tables", [_fold(one) for one in whole.sections])


def _fold(one: Tables) -> Fold:
    remarks = [Paragraph(remark, "remark") for remark in one.remarks]
    return Fold(one.title, [plain_table(one.title, one.header, one.rows), *remarks])
