"""Writer of HTML to be put into a page: no head, no scripts, no styles of its own but the watermark's frame."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from alignbench.comparison.comparison import Comparison
from alignbench.comparison.document import Section, document


def write(comparison: Comparison) -> str:
    """Returns a comparison as one section element."""
    whole = document(comparison)
    mark = "NOT COMPARABLE. " if whole.watermark else ""
    parts = [_watermark(whole.watermark), f"<p>{escape(whole.headline)}</p>" if whole.headline else ""]
    parts += [_table(section, mark) for section in whole.sections]
    parts += [f"<h3>{escape(title)}</h3>\n{_list(lines)}" for title, lines in whole.lists]
    return "\n".join(['<section class="alignbench-comparison">', *(part for part in parts if part), "</section>"])


def _watermark(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    heading, *fields = lines
    frame = '<div class="alignbench-watermark" role="note" style="border: 3px solid #b00020; padding: 0.5em">'
    return f"{frame}\n<p><strong>{escape(heading)}</strong></p>\n{_list(fields)}\n</div>"


def _table(section: Section, mark: str) -> str:
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in section.header)
    rows = [
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in section.rows
    ]
    remarks = [f"<p>{escape(remark)}</p>" for remark in section.remarks]
    return "\n".join(
        [
            "<table>",
            f"<caption>{escape(mark + section.title)}</caption>",
            f"<thead><tr>{header}</tr></thead>",
            "<tbody>",
            *rows,
            "</tbody>",
            "</table>",
            *remarks,
        ]
    )


def _list(lines: Sequence[str]) -> str:
    return "\n".join(["<ul>", *(f"<li>{escape(line)}</li>" for line in lines), "</ul>"])


plugin = write
