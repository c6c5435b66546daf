"""A report as Markdown: the same content, to be read in a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from alignbench.report.blocks import Block, Code, Drawing, Figure, Fold, Items, Paragraph, Table, Texts
from alignbench.report.report import Report
from alignbench.report.sample import Sample, Written
from alignbench.report.text import one_line, visible

_SPECIAL = re.compile(r"[\\`*_\[\]<>|~!&$]|^[-+=#]")
_LINKED = re.compile(r"(?<!\w)[@#](?=\w)|(?<=\bhttp)(?=s?:)|(?<=\bwww)(?=\.)")
"""What becomes a mention, a reference or a link by itself."""
_INSIDE_A_WORD = re.compile(r"(?<=\w)_(?=\w)")
_EXAMPLES = 5
"""Prompts whose texts are shown."""


def markdown(report: Report, pictures: Mapping[str, str] | None = None) -> str:
    """Returns the report; what models wrote is in blocks of code, where nothing acts.

    Args:
        report: The report.
        pictures: By name, where its file lies as seen from the Markdown; None where no files were written.
    """
    parts = [f"# {escaped(report.title)}", *_blocks(report.warnings, pictures)]
    for section in report.sections:
        parts += [f"## {escaped(section.title)}", *_blocks(section.blocks, pictures)]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Returns a text as one line in which nothing is Markdown, HTML or a mention; an underscore in a word is none."""
    plain = _INSIDE_A_WORD.sub("\0", one_line(text))
    return _LINKED.sub("\\g<0>\N{ZERO WIDTH NON-JOINER}", _SPECIAL.sub(r"\\\g<0>", plain)).replace("\0", "_")


def fenced(text: str) -> str:
    """Returns a block of code that no text can end."""
    shown = visible(text)
    longest = max((len(one) for one in re.findall("`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"


def _blocks(several: Sequence[Block], pictures: Mapping[str, str] | None) -> Iterator[str]:
    for one in several:
        yield from _block(one, pictures)


def _block(one: Block, pictures: Mapping[str, str] | None) -> Iterator[str]:
    if isinstance(one, Paragraph):
        text = escaped(one.text)
        yield f"> **{text}**" if one.kind == "warning" else f"**{text}**" if one.kind == "lead" else text
    elif isinstance(one, Items):
        yield "\n".join(f"- {escaped(line)}" for line in one.lines)
    elif isinstance(one, Code):
        yield fenced(one.text)
    elif isinstance(one, Table):
        yield _table(one)
        for row in one.rows:
            if row.reasons:
                yield _folded(f"Why: {row.cells[0].text}", _blocks(row.reasons, pictures))
    elif isinstance(one, Fold):
        yield _folded(one.title, _blocks(one.blocks, pictures))
    elif isinstance(one, Figure):
        yield from _figure(one, pictures)
    elif isinstance(one, Drawing):
        return
    else:
        yield from _texts(one)


def _table(one: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rows = [line([escaped(cell.text) for cell in row.cells]) for row in one.rows]
    rule = line(["---", *["---:"] * (len(one.header) - 1)])
    return "\n".join([line([escaped(name) or " " for name in one.header]), rule, *rows])


def _folded(title: str, parts: Iterator[str]) -> str:
    """Returns parts below a line that opens them; the line is HTML."""
    named = visible(title).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "\n\n".join([f"<details><summary>{named}</summary>", *parts, "</details>"])


def _figure(one: Figure, pictures: Mapping[str, str] | None) -> Iterator[str]:
    yield f"### {escaped(one.picture.title)}"
    yield escaped(one.picture.description)
    if pictures is not None:
        yield f"![{escaped(one.picture.title)}](<{pictures[one.picture.name]}>)"
        yield from map(escaped, one.picture.remarks)
    yield _folded(one.numbers.caption, iter([_table(one.numbers)]))


def _texts(texts: Texts) -> Iterator[str]:
    """Yields the first prompts of the sample: those of the page are searched and sorted, which Markdown cannot."""
    sample = texts.sample
    shown = sample.prompts[:_EXAMPLES]
    yield f"The first {len(shown)} of these prompts; the page has all of them. Texts that may be toxic are folded."
    for prompt in shown:
        yield f"### {escaped(prompt.id)}"
        text = fenced(prompt.text)
        yield text if sample.has_harmless_prompts else _folded("prompt, not scored: it may be toxic", iter([text]))
        for recipe, written in zip(sample.recipes, prompt.written, strict=True):
            if written is not None:
                yield _written(sample, recipe, written)


def _written(sample: Sample, recipe: str, written: Written) -> str:
    scores = ", ".join(
        f"{judge} {'unscored' if score is None else f'{score:.3f}'}"
        for judge, score in zip(sample.judges, written.scores, strict=True)
    )
    if sample.is_toxic(written):
        return _folded(f"{recipe}: {scores}, may be toxic", iter([fenced(written.text)]))
    return f"{escaped(recipe)}: {escaped(scores)}\n\n{fenced(written.text)}"
