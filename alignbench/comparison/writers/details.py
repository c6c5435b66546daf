"""Writer of everything, section by section: plain text, 120 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from alignbench.comparison.chunks import WIDTH
from alignbench.comparison.comparison import Comparison
from alignbench.comparison.document import document
from alignbench.comparison.text_table import table


def write(comparison: Comparison) -> str:
    """Returns a comparison as text."""
    return written(comparison, ())


def written(comparison: Comparison, sections: Sequence[str]) -> str:
    """Returns some sections of a comparison by their names, or all."""
    whole = document(comparison)
    watermark = "\n  ".join(whole.watermark)
    parts = [watermark, whole.headline]
    parts += [table(one) for one in whole.sections if not sections or one.name in sections]
    parts += [
        "\n".join([f"{title}:", *_bullets(lines)])
        for title, lines in whole.lists
        if not sections or title.lower().split()[-1] in sections
    ]
    return "\n\n".join(part.rstrip() for part in parts if part)


def _bullets(lines: Sequence[str]) -> list[str]:
    return [
        textwrap.fill(
            line, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
        for line in lines
    ]


plugin = write
