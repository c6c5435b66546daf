"""Writer of markdown."""

from __future__ import annotations

from collections.abc import Sequence

from alignbench.reporting.sections import Document, Section


def write(document: Document) -> str:
    """Returns the document as markdown."""
    watermark = "\n  ".join(document.watermark)
    parts = [watermark, document.headline, *map(_table, document.sections)]
    parts += ["\n".join([f"{title}:", "", *(f"- {line}" for line in lines)]) for title, lines in document.lists]
    return "\n\n".join(part.rstrip() for part in parts if part)


def _table(section: Section) -> str:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [row(section.header), row(["---", *["---:"] * (len(section.header) - 1)]), *map(row, section.rows)]
    remarks = [f"\n{remark}" for remark in section.remarks]
    return f"### {section.title}\n\n" + "\n".join([*lines, *remarks])
