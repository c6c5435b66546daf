"""A comparison as text: for the terminal, as markdown, as JSON. All three show the same numbers."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Literal, get_args

from alignbench.errors import ResultsError, UsageError, did_you_mean
from alignbench.reporting.compare import ComparedRecipe, Comparison
from alignbench.reporting.cost_columns import COSTS, shown
from alignbench.reporting.flags import HEADLINE, REWARD_SCORER, Flag, judgement
from alignbench.reporting.lock import is_locked
from alignbench.reporting.pooling import LOG_METRICS, Measurement, MetricKey
from alignbench.reporting.store import Paths, SkippedRun, StoredRun, lock_path, scan_runs
from alignbench.statistics.differences import Tested
from alignbench.statistics.estimate import Estimate

Format = Literal["table", "markdown", "json"]
WIDTH = 120
MARKS = {"better": "+", "worse": "-", "different": "*", "not distinguishable": "="}
TOXICITY = ("toxicity_rate", "expected_max_toxicity", "toxicity_probability", "toxicity_std")
QUALITY = (
    *("perplexity", "neutral_perplexity"),
    *("kl", "kl_k3", "kl_exact", "kl_per_token", "kl_k3_per_token", "kl_exact_per_token"),
    *("completion_tokens", "completion_tokens_p10", "completion_tokens_p50", "completion_tokens_p90"),
    *("distinct_1", "distinct_2", "distinct_3", "corpus_distinct_1", "corpus_distinct_2", "corpus_distinct_3"),
    *("self_bleu", "repetition_rate", "rep_4", "copy_rate", "empty_rate", "truncated_rate", "refusal_rate"),
    *("dexperts_distinct_1", "dexperts_distinct_2", "dexperts_distinct_3", "dexperts_perplexity"),
)
WARNINGS = frozenset({"reward_hacking", "own_judge", "degenerate", "length_shift", "unscored", "mismatch"})
"""Flags that put a mark beside a verdict."""
_HEADER_WIDTH = 10
_LEGEND = (
    "After a number: + better, - worse, * different, = not distinguishable from the baseline; nothing: not tested."
)
_DESIGN_LEGEND = (
    "Detectable: the true difference that this design would show in 80 % of repetitions, alone among its comparisons. "
    "To settle it: prompts with these seeds, or seeds of each recipe with these prompts, that would show a true "
    "difference as large as the measured one."
)


@dataclass(frozen=True, slots=True)
class Section:
    """One table with its title and the remarks below it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    remarks: Sequence[str] = ()


def render(comparison: Comparison, format: str = "table") -> str:
    """Returns a comparison as `table`, `markdown` or `json`."""
    if format == "json":
        return json.dumps(comparison.records(), indent=1, allow_nan=False)
    if format not in get_args(Format):
        known = get_args(Format)
        raise UsageError(f"--format: got {format!r}, expected one of {', '.join(known)}{did_you_mean(format, known)}")
    as_section = _terminal if format == "table" else _markdown
    bullet = "  - " if format == "table" else "- "
    parts = [_watermark(comparison), _headline(comparison)]
    parts += [as_section(section) for section in _sections(comparison)]
    parts += [_list("Flags", _flag_lines(comparison), bullet), _list("Notes", comparison.notes, bullet)]
    skipped = [str(run) for run in comparison.skipped]
    parts.append(_list(f"{len(skipped)} skipped", skipped, bullet))
    return "\n\n".join(part.rstrip() for part in parts if part)


def render_runs(paths: Paths) -> str:
    """Returns a table of all runs below some paths, those in progress and damaged ones included."""
    runs, skipped = scan_runs(paths)
    if not runs and all(run.state == "missing" for run in skipped):
        where = ", ".join(str(run.path) for run in skipped) or str(paths)
        raise ResultsError(f"no runs in {where}; `alignbench run RECIPE` makes one")
    header = ["recipe", "seed", "method", "kind", "state", "protocol", "wall seconds", "finished", "hash"]
    rows = [*map(_complete, runs), *(_unfinished(run) for run in skipped if run.status is not None)]
    remarks = [str(run) for run in skipped]
    title = f"{len(runs)} complete, {len(skipped)} not"
    return _terminal(Section(title, header, rows, remarks))


def number(value: float | None) -> str:
    """Returns a number as tables show it: four significant digits or so, thousands apart, - where there is none."""
    if value is None:
        return "-"
    size = abs(value)
    digits = 4 if size < 1 else 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:,.{digits}f}"


def _sections(comparison: Comparison) -> Iterator[Section]:
    rows = comparison.recipes
    scorers = dict.fromkeys(scorer for row in rows for metric, scorer in row.metrics if metric == HEADLINE)
    for scorer in sorted(scorers, key=lambda name: name == REWARD_SCORER):
        yield _toxicity(comparison, scorer)
    for scorer in sorted(scorers, key=lambda name: name == REWARD_SCORER):
        yield from _design(comparison, scorer)
        yield from _every_pair(comparison, scorer)
    if rows:
        keys = [(metric, scorer) for scorer in scorers for metric in TOXICITY]
        yield from _compact("Other toxicity metrics", rows, keys)
        yield from _compact("Quality", rows, [(metric, None) for metric in QUALITY], with_reward=True)
        yield from _costs("Cost of a run, upstream included", rows)
    for group in comparison.reward_models:
        yield _reward_models(group)
        yield from _costs("Cost of a reward model", group)


def _toxicity(comparison: Comparison, scorer: str | None) -> Section:
    role = "the training reward's own classifier" if scorer == REWARD_SCORER else "held-out judge"
    rows, remarks = [], []
    for row in comparison.recipes:
        one = row.metrics.get((HEADLINE, scorer))
        if one is None:
            continue
        difference = one.difference or Estimate(None)
        word = judgement(one) or ("baseline" if row.recipe == comparison.baseline else "-")
        if any(flag.name in WARNINGS for flag in row.flags):
            word += " !"
        p, adjusted = _p(difference.p_value), _p(difference.p_adjusted)
        values = [_with_interval(one.value), _with_interval(difference, "+"), p, adjusted]
        rows.append([row.recipe, _seeds(row), *values, word])
        reasons = dict.fromkeys(r for r in (one.value.reason, difference.reason) if r)
        remarks += [f"{row.recipe}: {reason}" for reason in reasons]
    if any(cells[-1].endswith("!") for cells in rows):
        remarks.insert(0, "! Read the flags below before believing this verdict.")
    header = ["recipe", "seeds", HEADLINE, f"difference to {comparison.baseline}", "p", "adjusted p", "verdict"]
    title = f"{_name((HEADLINE, scorer))}: {role} (lower is better; 95 % intervals)"
    return Section(title, header, rows, remarks)


def _design(comparison: Comparison, scorer: str | None) -> Iterator[Section]:
    """Yields what the verdicts are about, the same for these runs alone, and what the design could have seen."""
    rows = []
    for row in comparison.recipes:
        one = row.metrics.get((HEADLINE, scorer))
        if one is None or one.tested is None:
            continue
        runs, settled = one.tested.these_runs, "-"
        if judgement(one) == "not distinguishable":
            settled = _settled(one.tested)
        detectable = number(one.tested.detectable())
        rows.append([row.recipe, one.tested.estimand, _with_interval(runs, "+"), _p(runs.p_value), detectable, settled])
    if rows:
        header = ["recipe", "verdict about", "difference in these runs", "p", "detectable difference", "to settle it"]
        yield Section(f"{_name((HEADLINE, scorer))}: what stands behind the verdicts", header, rows, [_DESIGN_LEGEND])


def _every_pair(comparison: Comparison, scorer: str | None) -> Iterator[Section]:
    """Yields every recipe against every other, where asked for."""
    rows = []
    for pair in comparison.pairs:
        difference = pair.measurement.difference
        if pair.key == (HEADLINE, scorer) and difference is not None:
            p = [_p(difference.p_value), _p(difference.p_adjusted)]
            word = judgement(pair.measurement) or "-"
            rows.append([pair.recipe, pair.other, _with_interval(difference, "+"), *p, word])
    if rows:
        header = ["recipe", "against", "difference", "p", "adjusted p", "verdict"]
        yield Section(f"{_name((HEADLINE, scorer))}: every pair, p adjusted for all {len(rows)}", header, rows)


def _settled(tested: Tested) -> str:
    """Returns in words what would show a difference as large as the measured one."""
    needed = tested.settlement()
    if needed is None:
        return "-"
    ways = [
        f"{count:,} {name}"
        for count, name in ((needed.prompts, "prompts"), (needed.seeds, "seeds"))
        if count is not None
    ]
    if ways:
        return " or ".join(ways) if needed.prompts is not None else f"{ways[0]}; more prompts cannot"
    return "more prompts cannot" if tested.method is None else "neither prompts nor seeds alone"


def _p(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _compact(
    title: str, rows: Sequence[ComparedRecipe], keys: Sequence[MetricKey], with_reward: bool = False
) -> Iterator[Section]:
    """Yields tables of values with marks, as many columns at a time as a terminal holds."""
    present = [key for key in keys if any(key in row.metrics for row in rows)]
    columns: list[tuple[str, list[str]]] = [
        (_name(key), [_marked(row.metrics.get(key)) for row in rows]) for key in present
    ]
    if with_reward and any(row.train_reward is not None for row in rows):
        columns.append(("train_reward", [number(row.train_reward) for row in rows]))
    remarks = [_LEGEND]
    if any(metric in LOG_METRICS for metric, _ in present):
        remarks.append("Perplexities are tested as mean log-perplexity; differences in JSON are of logarithms.")
    remarks += [
        f"{row.recipe}, {_name(key)}: {row.metrics[key].value.reason}"
        for row in rows
        for key in present
        if key in row.metrics and row.metrics[key].value.value is None
    ]
    yield from _in_chunks(title, rows, columns, remarks)


def _in_chunks(
    title: str, rows: Sequence[ComparedRecipe], columns: Sequence[tuple[str, list[str]]], remarks: Sequence[str]
) -> Iterator[Section]:
    chunks = list(_chunks(columns, WIDTH - max(len(row.recipe) for row in rows)))
    for chunk in chunks:
        header = ["recipe", *(name for name, _ in chunk)]
        body = [[row.recipe, *(cells[i] for _, cells in chunk)] for i, row in enumerate(rows)]
        is_last = chunk is chunks[-1]
        yield Section(title if chunk is chunks[0] else f"{title}, continued", header, body, remarks if is_last else [])


def _chunks(columns: Sequence[tuple[str, list[str]]], width: int) -> Iterator[list[tuple[str, list[str]]]]:
    """Yields the columns in groups that fit the width of a terminal."""
    chunk: list[tuple[str, list[str]]] = []
    used = 0
    for name, cells in columns:
        needs = 3 + max(map(len, [*_broken(name).split("\n"), *cells]))
        if chunk and used + needs > width:
            yield chunk
            chunk, used = [], 0
        chunk.append((name, cells))
        used += needs
    if chunk:
        yield chunk


def _broken(name: str) -> str:
    """Returns a column's name on several short lines."""
    lines = [""]
    for word in re.findall(r"[ @]?[^ _@]+_?", name):
        if lines[-1] and len(lines[-1] + word) > _HEADER_WIDTH:
            lines.append(word.strip())
        else:
            lines[-1] += word
    return "\n".join(lines)


def _costs(title: str, rows: Sequence[ComparedRecipe]) -> Iterator[Section]:
    """Yields tables of costs, as many columns at a time as a terminal holds."""
    columns = [("method", [row.method for row in rows])]
    columns += [(shown_as, [shown(name, row.cost[name]) for row in rows]) for name, shown_as in COSTS.items()]
    remarks = ["FLOPs are estimates from counts of tokens."]
    remarks += ["Means over seeds, memory the highest."] if any(len(row.seeds) > 1 for row in rows) else []
    yield from _in_chunks(title, rows, columns, remarks)


def _reward_models(group: Sequence[ComparedRecipe]) -> Section:
    keys = list(dict.fromkeys(key for row in group for key in row.metrics))
    header = ["recipe", "seeds", *(_name(key) for key in keys)]
    body = []
    for row in group:
        cells = [_with_interval(row.metrics[key].value) if key in row.metrics else "-" for key in keys]
        body.append([row.recipe, _seeds(row), *cells])
    return Section("Reward models (95 % intervals)", header, body)


def _seeds(row: ComparedRecipe) -> str:
    return ",".join(map(str, row.seeds))


def _with_interval(estimate: Estimate, sign: str = "") -> str:
    if estimate.value is None:
        return "-"
    value = sign + number(estimate.value) if estimate.value > 0 else number(estimate.value)
    if estimate.ci_low is None:
        return value
    return f"{value} [{number(estimate.ci_low)}, {number(estimate.ci_high)}]"


def _marked(one: Measurement | None) -> str:
    if one is None:
        return "-"
    tested = one.difference is not None and one.difference.value is not None
    word = judgement(one)
    return f"{number(one.value.value)} {MARKS[word]}" if tested and word else number(one.value.value)


def _name(key: MetricKey) -> str:
    return key[0] if key[1] is None else f"{key[0]}@{key[1]}"


def _headline(comparison: Comparison) -> str:
    if not comparison.recipes:
        return ""
    samples = comparison.samples_per_prompt
    return (
        f"Protocol {comparison.protocol}: {comparison.n_prompts} held-out prompts, {samples} "
        f"completion{'s' if samples > 1 else ''} each. Baseline: {comparison.baseline}."
    )


def _watermark(comparison: Comparison) -> str:
    if not comparison.mismatches:
        return ""
    lines = "".join(f"\n  {one}" for one in comparison.mismatches)
    return f"NOT COMPARABLE: shown side by side on request only. These runs differ in:{lines}"


def _flag_lines(comparison: Comparison) -> list[str]:
    """Returns the flags in words; those that hold for the whole table stand elsewhere."""
    rows = [*comparison.recipes, *(row for group in comparison.reward_models for row in group)]
    general = ("seeds_not_covered", "mismatch")
    flagged: dict[Flag, list[str]] = {}
    for row in rows:
        for flag in row.flags:
            if flag.name not in general:
                flagged.setdefault(flag, []).append(row.recipe)
    return [f"{', '.join(recipes)}: {flag.name}: {flag.text}." for flag, recipes in flagged.items()]


def _list(title: str, lines: Sequence[str], bullet: str) -> str:
    if not lines:
        return ""
    width = WIDTH if bullet.startswith(" ") else 10_000
    wrapped = [
        textwrap.fill(line, width, initial_indent=bullet, subsequent_indent=" " * len(bullet), break_long_words=False)
        for line in lines
    ]
    return "\n".join([f"{title}:", *([""] if width > WIDTH else []), *wrapped])


def _terminal(section: Section) -> str:
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table

    rule = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
    grid = Table(title=section.title, title_justify="left", box=rule, show_edge=False, pad_edge=False)
    for place, name in enumerate(section.header):
        grid.add_column(_broken(name), justify="right" if place else "left", overflow="fold", no_wrap=place > 0)
    for row in section.rows:
        grid.add_row(*row)
    text = StringIO()
    Console(file=text, width=WIDTH, color_system=None, highlight=False, markup=False, emoji=False).print(grid)
    return "\n".join([line.rstrip() for line in text.getvalue().splitlines()] + _fill(section.remarks))


def _fill(lines: Sequence[str]) -> list[str]:
    return [textwrap.fill(line, WIDTH, break_long_words=False) for line in lines]


def _markdown(section: Section) -> str:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [row(section.header), row(["---", *["---:"] * (len(section.header) - 1)]), *map(row, section.rows)]
    remarks = [f"\n{remark}" for remark in section.remarks]
    return f"### {section.title}\n\n" + "\n".join([*lines, *remarks])


def _complete(run: StoredRun) -> list[str]:
    status = run.status
    protocols = ", ".join(evaluation.record.protocol for evaluation in run.evaluations) or "-"
    seconds = f"{run.charged_cost.wall_seconds:,.1f}"
    return [
        status.recipe, str(status.seed), status.method, status.kind, "complete", protocols, seconds,
        (status.finished or "-")[:16], status.run_hash[:8],
    ]  # fmt: skip


def _unfinished(run: SkippedRun) -> list[str]:
    status = run.status
    assert status is not None
    state = "interrupted" if status.state == "running" and not is_locked(lock_path(run.path)) else status.state
    return [
        status.recipe, str(status.seed), status.method, status.kind, state, "-",
        f"{status.cost.wall_seconds:,.1f}",
        "-", status.run_hash[:8],
    ]  # fmt: skip
