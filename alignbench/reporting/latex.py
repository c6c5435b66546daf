"""Writer of LaTeX: booktabs tables to be put into a document with \\input. Needs the package booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from alignbench.reporting.sections import Document, Section

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
_NEEDS = "% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}"


def write(document: Document) -> str:
    """Returns the document as LaTeX without preamble."""
    mark = "NOT COMPARABLE. " if document.watermark else ""
    parts = [_NEEDS, _watermark(document.watermark), escaped(document.headline)]
    parts += [_table(section, mark) for section in document.sections]
    parts += [_list(title, lines) for title, lines in document.lists]
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
