"""Writer of markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from alignbench.comparison.comparison import Comparison
from alignbench.comparison.document import Section, document

_SPECIAL = re.compile(r"[\\`|]|<(?=[A-Za-z/!?])|\](?=\()|(?<=\S)\*|\*(?=\S)|(?<![^\W_])_|_(?![^\W_])")
"""What would not be shown as it is: an underscore inside a word is, and so is a mark by itself."""


def write(comparison: Comparison) -> str:
    """Returns a comparison as markdown."""
    whole = document(comparison)
    watermark = "\n  ".join(whole.watermark)
    parts = [watermark, whole.headline, *map(_table, whole.sections)]
    parts += ["\n".join([f"{title}:", "", *(f"- {line}" for line in lines)]) for title, lines in whole.lists]
    return "\n\n".join(part.rstrip() for part in parts if part)


def _table(section: Section) -> str:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_SPECIAL.sub(r"\\\g<0>", cell) for cell in cells) + " |"

    lines = [row(section.header), row(["---", *["---:"] * (len(section.header) - 1)]), *map(row, section.rows)]
    remarks = [f"\n{remark}" for remark in section.remarks]
    return f"### {section.title}\n\n" + "\n".join([*lines, *remarks])


plugin = write
