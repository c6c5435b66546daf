"""Writer of LaTeX: booktabs tables to be put into a document with \\input. Needs the package booktabs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from alignbench.comparison.comparison import Comparison
from alignbench.comparison.document import Section, document

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}
_SPECIAL = re.compile("|".join(map(re.escape, _ESCAPES)))
_MINUS = re.compile(r"(?<![\w.,}-])-(?=\d)")
_MAX_COLUMNS = 6
_NEEDS = "% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}"


def write(comparison: Comparison) -> str:
    """Returns a comparison as LaTeX without preamble."""
    whole = document(comparison)
    mark = "NOT COMPARABLE. " if whole.watermark else ""
    parts = [_NEEDS, _watermark(whole.watermark), escaped(whole.headline)]
    parts += [_table(page, mark) for section in whole.sections for page in _pages(section)]
    parts += [_list(title, lines) for title, lines in whole.lists]
    return "\n\n".join(part for part in parts if part)


def escaped(text: str) -> str:
    """Returns text on one line as LaTeX sets it literally: hyphens stay hyphens, and a minus before a number is one."""
    line = " ".join(text.split())
    line = _SPECIAL.sub(lambda found: _ESCAPES[found.group()], line)
    return _MINUS.sub("$-$", line).replace("--", "-{}-")


def _watermark(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    heading, *fields = map(escaped, lines)
    body = " \\\\\n".join([f"\\textbf{{{heading}}}", *(f"{{}}{field}" for field in fields)])
    return f"\\noindent\\fbox{{\\parbox{{0.95\\linewidth}}{{\n{body}\n}}}}"


def _pages(section: Section) -> Iterator[Section]:
    """Yields a table in as few of at most six columns as hold it, the first column in each, remarks below the last."""
    n_others = len(section.header) - 1
    n_pages = max(1, -(-n_others // (_MAX_COLUMNS - 1)))
    ends = [1 + n_others * page // n_pages for page in range(n_pages + 1)]
    for start, end in pairwise(ends):
        title = section.title if start == 1 else f"{section.title}, continued"
        rows = [[row[0], *row[start:end]] for row in section.rows]
        remarks = section.remarks if end == ends[-1] else ()
        yield replace(
            section, title=title, header=[section.header[0], *section.header[start:end]], rows=rows, remarks=remarks
        )


def _table(section: Section, mark: str) -> str:
    def row(cells: Sequence[str]) -> str:
        # The braces: after a line break, LaTeX would take [ or * for an argument of the break.
        return "{}" + " & ".join(map(escaped, cells)) + r" \\"

    remarks = [f"\\par\\footnotesize {escaped(remark)}" for remark in section.remarks]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering",
            f"\\caption{{{escaped(mark + section.title)}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(section.header) - 1)}}}",
            r"\toprule",
            row(section.header),
            r"\midrule",
            *map(row, section.rows),
            r"\bottomrule",
            r"\end{tabular}",
            *remarks,
            r"\end{table}",
        ]
    )


def _list(title: str, lines: Sequence[str]) -> str:
    items = [f"\\item {{}}{escaped(line)}" for line in lines]
    heading = f"\\paragraph{{{escaped(title)}}}"
    return "\n".join([heading, r"\begin{itemize}", *items, r"\end{itemize}"])


plugin = write
