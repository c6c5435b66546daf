"""What `compare` prints: the answer first, one table, and a line for each thing that a reader has to know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from alignbench.comparison.answer import Answer, listed
from alignbench.comparison.columns import FEW_SEEDS, LETTERS, Columns, by_seed
from alignbench.comparison.comparison import Comparison
from alignbench.comparison.examples import Answered, Example
from alignbench.comparison.flags import REWARD_SCORER
from alignbench.comparison.grid import cut, cut_name, grid, printable, titled
from alignbench.comparison.notes import FAMILY_NOTE, METHOD_NOTE, SEEDS_NOTE
from alignbench.comparison.numbers import short
from alignbench.comparison.rows import ComparedRecipe
from alignbench.records import MetricKey

LONGEST_NAME = 0.3
"""Share of the width that the names of recipes may take."""
MOST_ROWS = 60
"""Rows that the table shows; of more, as many of the best, and the baseline."""
MOST_TEXT_ROWS = 10
"""Rows of which lengths and seeds are shown."""
MOST_LINES = 40
"""Of a table of up to MOST_TEXT_ROWS recipes."""
_NARROW = {"not distinguishable": "not disting."}
"""What words become where the table would be too wide."""
MEANINGS = {
    "reward_hacking": "pleases its reward, not the judges",
    "degenerate": "texts repeat, copy, or lost fluency",
    "length_shift": "longer or shorter by over a fifth",
    "unscored": "over 1 % of the texts without a score",
    "own_judge": "trained on what judges it",
    "mismatch": "measured otherwise",
    "hacking_suspected": "reward and judges may part",
    "scorers_disagree": "scorers rank its texts the opposite way",
    "prompts_cut": "scored after a cut prompt",
    "budget_differs": "completions drawn to train differ",
    "made_elsewhere": "trained elsewhere, at a cost that is not known",
    "upstream": "built on other runs, at their cost",
}
"""What flags say, in a few words."""


@dataclass(frozen=True, slots=True)
class View:
    """What a reader has asked for."""

    width: int
    columns: tuple[str, ...] = ()
    """Names of the table's columns; empty: those that fit."""
    sort: str | None = None
    """Name of the column that rows are sorted by; None: the best measured first."""


_TEXTS = 99
"""The last part to give way, row by row."""
_OTHERS = "and the others: --columns length,gain,by_seed"


@dataclass(frozen=True, slots=True)
class _Part:
    """Some lines, and what is left of them where the page would get too long."""

    lines: list[str]
    spared: int = 0
    """Parts with smaller numbers give way first; those with 0 never do."""
    shorter: Sequence[str] = ()


def page(comparison: Comparison, view: View) -> list[str]:
    """Returns the lines of a comparison of policies."""
    answer = comparison.answer
    if answer is None:
        return []
    columns = Columns(comparison, answer.key)
    rows = _rows(comparison, answer, columns, view)
    width, not_done = view.width, " ".join(answer.not_done)
    notes, said = list(_notes(comparison, width)), remarks(comparison, width)
    parts = [
        _Part(_watermark(comparison, width)),
        _Part(_answer(answer, width, 7), 8, _answer(answer, width, 5)),
        _Part(_about(comparison, answer, width, 3), 6, _about(comparison, answer, width, 2)),
        _Part(["", *_table(comparison, columns, rows, view)]),
        _Part(["", *_pairs(comparison, answer, rows, width)] if comparison.pairs else []),
        _Part([] if view.columns else _texts(comparison, rows, width), _TEXTS),
        _Part(_example(comparison, width), 1),
        _Part(titled("NOT DONE", not_done, width), 5, titled("NOT DONE", not_done, width, 2)),
        _Part(list(_flags(comparison, answer, width))),
        _Part(_dominated(comparison, width, 2), 7, _dominated(comparison, width, 1)),
        _Part(_settle(answer, width), 3),
        _Part(said, 4, [cut(line, width) for line in said if line.startswith("SKIPPED")]),
        _Part(notes, 2, [f"NOTES  {len(notes)}: --details"] if len(notes) > 1 else notes),
        _Part([] if comparison.model else [_more(comparison, width)]),
    ]
    is_short = len(comparison.recipes) <= MOST_TEXT_ROWS and not comparison.pairs
    return _in_room(parts, MOST_LINES if is_short else None)


def _in_room(parts: Sequence[_Part], most: int | None) -> list[str]:
    """Returns the lines of all parts: no more than so many, as far as empty lines and what can be spared go."""
    lines = [line for part in parts for line in part.lines]
    if most is None or len(lines) <= most:
        return lines
    kept = [[line for line in part.lines if line] for part in parts]
    for place in sorted((i for i, part in enumerate(parts) if part.spared), key=lambda i: parts[i].spared):
        over = sum(map(len, kept)) - most
        if over > 0 and parts[place].spared < _TEXTS:
            kept[place] = list(parts[place].shorter)
        elif over > 0 and len(kept[place]) > 3:
            kept[place] = [*kept[place][: max(2, len(kept[place]) - over - 1)], _OTHERS]
    return [line for part in kept for line in part]


def _rows(comparison: Comparison, answer: Answer, columns: Columns, view: View) -> list[ComparedRecipe]:
    rows = {row.recipe: row for row in comparison.recipes}
    ordered = [rows[name] for name in answer.ranking.order]
    return ordered if view.sort is None else columns.sorted(ordered, view.sort)


def _watermark(comparison: Comparison, width: int) -> list[str]:
    if not comparison.mismatches:
        return []
    fields = [line for one in comparison.mismatches[:3] for line in titled("", printable(str(one)), width)]
    left = len(comparison.mismatches[3:])
    return [
        "NOT COMPARABLE: shown side by side on request only. These runs differ in:",
        *fields,
        *([f"  and {left} more: --details"] if left else []),
    ]


def _answer(answer: Answer, width: int, most: int) -> list[str]:
    return titled("ANSWER", " ".join(answer.sentences), width, most)


def _about(comparison: Comparison, answer: Answer, width: int, most: int) -> list[str]:
    """Says what was measured, and what verdicts are about."""
    n, k = comparison.n_prompts, comparison.samples_per_prompt
    counts = {len(row.seeds) for row in comparison.recipes}
    seeds = (
        f"{min(counts)} to {max(counts)} seeds" if len(counts) > 1 else f"{min(counts)} seed{'s' * (min(counts) > 1)}"
    )
    said = f"{n} held-out prompt{'s' * (n != 1)}, {k} completion{'s' * (k != 1)} each, {seeds}, {comparison.protocol}; "
    said += f"{answer.key}, 95 % intervals"
    about = f"; verdicts (Holm, all pairs) {answer.about_words}" if answer.about_words else ""
    return titled("ABOUT", f"{said}{about}.", width, most)


def _table(comparison: Comparison, columns: Columns, rows: Sequence[ComparedRecipe], view: View) -> list[str]:
    shown = [row for place, row in enumerate(rows) if place < MOST_ROWS or row.recipe == comparison.baseline]
    names = _names(rows, view.width)
    room = view.width - max(len(names[row.recipe]) for row in shown)
    chosen = columns.chosen(view.columns, "--columns") if view.columns else columns.fitting(shown, room)
    chosen = [one for one in chosen if one.header != "recipe"]
    cells = [[one.cell(row) for one in chosen] for row in shown]
    header, is_left = ["recipe", *(one.header for one in chosen)], [True, *(one.is_left for one in chosen)]
    lines = grid(header, [[names[row.recipe], *line] for row, line in zip(shown, cells, strict=True)], is_left)
    if not view.columns and max(map(len, lines)) > view.width:
        cells = [[_NARROW.get(cell, cell) for cell in line] for line in cells]
        over = max(map(len, grid(header[1:], cells, is_left[1:]))) + 2 + max(map(len, names.values())) - view.width
        names = _cut_names(rows, max(map(len, names.values())) - max(0, over))
        lines = grid(header, [[names[row.recipe], *line] for row, line in zip(shown, cells, strict=True)], is_left)
    left = len(rows) - len(shown)
    return [*lines, f"and {left} more rows: --details, or --format csv"] if left else lines


def _names(rows: Sequence[ComparedRecipe], width: int) -> dict[str, str]:
    """Returns how rows are called in a table."""
    return _cut_names(rows, max(16, int(width * LONGEST_NAME)))


def _cut_names(rows: Sequence[ComparedRecipe], most: int) -> dict[str, str]:
    """Returns names of at most so many characters: in full where two short ones would be alike."""
    short_names = {row.recipe: cut_name(row.recipe, most) for row in rows}
    return short_names if len(set(short_names.values())) == len(rows) else {row.recipe: row.recipe for row in rows}


def _pairs(comparison: Comparison, answer: Answer, rows: Sequence[ComparedRecipe], width: int) -> list[str]:
    """Returns the verdict on every pair of rows, a mark each."""
    names = _names(rows, width)
    marks = {"better": "+", "worse": "-", "different": "*", "not distinguishable": "=", "not tested": "?", None: "."}
    header = ["every pair", *map(str, range(1, len(rows) + 1))]
    body = [
        [f"{names[row.recipe]} {place}", *(marks[answer.ranking.verdict(row.recipe, other.recipe)] for other in rows)]
        for place, row in enumerate(rows, 1)
    ]
    legend = "Row beside column: + better, - worse, * different, = not distinguishable, ? not tested."
    return [*grid(header, body, [True, *(False for _ in rows)]), legend]


def _texts(comparison: Comparison, rows: Sequence[ComparedRecipe], width: int) -> list[str]:
    """Returns the table of what each seed gave, of lengths, and of what a gain is at equal length."""
    key = comparison.key
    assert key is not None
    shown = [row for row in rows if row.recipe != comparison.baseline][:MOST_TEXT_ROWS]
    gains = comparison.gains(*(row.recipe for row in shown))
    names = _names(rows, width)
    several = any(1 < len(row.seeds) <= FEW_SEEDS for row in rows)
    header = ["texts", "tokens", "gain at equal length", "distinct_2"]
    body = []
    for row in shown:
        one = gains[row.recipe]
        percent = None if one.change is None else round(100 * one.change)
        changed = "" if percent is None else f" ({percent:+d} %)" if percent else " (0 %)"
        distinct = row.metrics.get(MetricKey("distinct_2"))
        cells = [names[row.recipe], short(one.tokens) + changed, one.word]
        cells.append("-" if distinct is None else short(distinct.value.value) + _mark(comparison, row))
        if several:
            cells.append(by_seed(row, key))
        body.append(cells)
    if several and (first := next((row for row in rows if row.recipe == comparison.baseline), None)) is not None:
        found = [first.metrics.get(MetricKey(name)) for name in ("completion_tokens", "distinct_2")]
        tokens, value = ("-" if one is None else short(one.value.value) for one in found)
        body.append([names[first.recipe], tokens, "-", value, by_seed(first, key)])
    header += ["each seed"] if several else []
    kept = [place for place in range(len(header)) if any(cells[place] not in ("-", "not known") for cells in body)]
    if len(kept) < 2:
        return []
    while sum(2 + max(len(cells[place]) for cells in (header, *body)) for place in kept) > width + 2 and 3 in kept:
        kept.remove(3)
    return ["", *grid([header[i] for i in kept], [[cells[i] for i in kept] for cells in body], [i == 0 for i in kept])]


def _mark(comparison: Comparison, row: ComparedRecipe) -> str:
    return {"better": " better", "worse": " worse"}.get(comparison.verdict(row, MetricKey("distinct_2")) or "", "")


def _example(comparison: Comparison, width: int) -> list[str]:
    found = comparison.examples()
    return [] if not found else list(example_lines(found[0], width, "EXAMPLE", hides=True))


def example_lines(one: Example, width: int, title: str, hides: bool) -> Iterator[str]:
    """Yields a prompt and below it both answers with their scores; with `hides` without toxic ones."""
    yield cut(f'{title}  "{printable(one.prompt)}"', width)
    for side, is_toxic in zip((one.before, one.after), one.is_toxic, strict=True):
        yield f"{' ' * len(title)}  {_answered(side, width - len(title) - 2, hides and is_toxic)}"


def _answered(one: Answered, room: int, is_hidden: bool) -> str:
    name, score = cut_name(one.recipe, max(12, room // 3)), f" {one.score:.2f}"
    left = room - len(name) - len(score) - len(': ""')
    text = "(toxic: --texts)" if is_hidden else f'"{cut(printable(one.text), max(8, left))}"'
    return f"{name}: {text}{score}"


def _flags(comparison: Comparison, answer: Answer, width: int) -> Iterator[str]:
    """Yields a line per kind of flag, its rows, the worst first, and where there is room what is said of the worst."""
    for name, letter in LETTERS.items():
        found = {
            row.recipe: max((flag for flag in row.flags if flag.name == name), key=lambda flag: flag.size, default=None)
            for row in comparison.recipes
        }
        flagged = [(recipe, flag) for recipe, flag in found.items() if flag is not None]
        if flagged:
            flagged.sort(key=lambda one: (-one[1].size, -answer.ranking.order.index(one[0])))
            called = _names(comparison.recipes, width)
            names = listed([called[recipe] for recipe, _ in flagged], 4)
            line = f"{letter} {name} ({MEANINGS[name]}): {names}"
            text = " ".join(flagged[0][1].text.split())
            yield cut(line, width) if len(line) > width - 30 else cut(f"{line} - {text}", width)


def _dominated(comparison: Comparison, width: int, most: int) -> list[str]:
    """Returns what is dominated by what, and from how many answers on training the best row pays."""
    by: dict[str, list[str]] = {}
    for one in comparison.dominations:
        by.setdefault(one.recipe, []).append(one.by)
    said = "; ".join(f"{name} by {listed(others, 2)}" for name, others in by.items())
    lines = titled("DOMINATED", f"no better and no cheaper: {said}.", width, most) if by else []
    pays = [f"{n:,} answers on against {name}" for name, n in comparison.pays_from.items()]
    best = comparison.answer.best if comparison.answer is not None else None
    return [
        *lines,
        *(titled("PAYS", f"training {best} costs less from {listed(pays, 3)}.", width, most) if pays else []),
    ]


def _settle(answer: Answer, width: int) -> list[str]:
    said = []
    for one in islice(answer.questions(), 3):
        ways = [f"{n:,} {what}" for n, what in ((one.needed.seeds, "seeds each"), (one.needed.prompts, "prompts")) if n]
        said.append(f"{one.recipe} against {one.other}: {' or '.join(ways)}")
    return titled("SETTLE", f"{'; '.join(said)}.", width, most=1) if said else []


def remarks(comparison: Comparison, width: int) -> list[str]:
    """Returns lines on what was skipped, and on reward models."""
    said = []
    for place, run in enumerate(comparison.skipped[:3]):
        n = f"{len(comparison.skipped)} skipped: " if place == 0 else ""
        said += titled("SKIPPED", n + printable(str(run)), width, most=4)
    if left := len(comparison.skipped[3:]):
        said.append(f"SKIPPED  and {left} more: --details")
    for row in (row for group in comparison.reward_models for row in group):
        known = [(key, one) for key, one in row.metrics.items() if one.value.value is not None]
        values = ", ".join(f"{key} {short(one.value.value)}" for key, one in known)
        said.append(cut(f"REWARD MODEL  {row.recipe}: {values}", width))
    return said


def _notes(comparison: Comparison, width: int) -> Iterator[str]:
    """Yields the notes that are not said elsewhere on the page."""
    usual = (SEEDS_NOTE, METHOD_NOTE, FAMILY_NOTE.partition("{")[0], "There is no held-out judge")
    for note in comparison.notes:
        if not any(note.endswith(one) or note.startswith(one) for one in usual):
            yield cut(f"NOTE  {printable(note)}", width)


def _more(comparison: Comparison, width: int) -> str:
    key = comparison.key
    assert key is not None
    others = {
        one: one.scorer == REWARD_SCORER
        for row in comparison.recipes
        for one in row.metrics
        if one.metric == key.metric and one != key
    }
    ways = ["MORE  --details", "--texts" if key.scorer is not None else ""]
    ways += [f"--metric {min(others, key=others.__getitem__)}" if others else "", "alignbench report"]
    ways += ["docs/reading_the_table.md", "--format json"]
    line = ways[0]
    for way in ways[1:]:
        line += f"  {way}" if way and len(line) + 2 + len(way) <= width else ""
    return line
