"""The answer, and the table that it is read off; every verdict opens its reasons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from alignbench.comparison.answer import Answer, cost_multiples
from alignbench.comparison.cost_columns import shown, shown_per_answer
from alignbench.comparison.flags import REWARD_SCORER
from alignbench.comparison.numbers import number, p_value, with_interval
from alignbench.comparison.pooling import NOT_TRAINED_HERE, Measurement
from alignbench.comparison.rows import ComparedRecipe, detectable, settlement
from alignbench.records import MetricKey
from alignbench.report.blocks import Block, Cell, Drawing, Items, Paragraph, Row, Section, Table, plain_table
from alignbench.report.material import Material
from alignbench.report.pictures.hacking import hacking_of
from alignbench.statistics.estimate import Estimate

_METRICS = {"kl": "KL", "perplexity": "perplexity"}
"""Metrics beside the one that the table is about, by name, as the header has them."""
_TOKENS = MetricKey("completion_tokens")
_OF_ALL = ("seeds_not_covered", "mismatch")
"""Flags that are said once, of the whole table."""
_HELP = "The best measured first; 95 % intervals. A click on a heading sorts, one on a verdict opens its reasons."
_RANKS = (
    "Rank: from 1 + the rows shown to be better, to the number of rows less those shown to be worse, by tests of all "
    "pairs adjusted together. Rows whose ranks overlap are not equal: they have not been told apart."
)
_BESIDE = {
    "better": "better than",
    "worse": "worse than",
    "different": "different from",
    "not tested": "not tested beside",
}


def answer(material: Material) -> Section:
    """Returns what comes out, in words and in one table."""
    found = material.comparison.answer
    blocks: list[Block] = []
    if found is not None:
        blocks.append(Paragraph(" ".join(found.sentences), "lead"))
    blocks.append(Paragraph(_about(material, found)))
    blocks.append(_table(material))
    if found is not None:
        blocks.append(Paragraph(_RANKS, "remark"))
        if found.not_done:
            blocks.append(Paragraph(" ".join(found.not_done)))
        if found.open_questions:
            blocks.append(Paragraph(f"What would settle what is open: {'; '.join(_settling(found))}."))
    return Section("answer", "Answer", blocks)


def _about(material: Material, found: Answer | None) -> str:
    one = material.comparison
    n, k = one.n_prompts, one.samples_per_prompt
    said = f"Protocol {one.protocol}: {n:,} held-out prompt{'s' * (n != 1)}, {k} completion{'s' * (k != 1)} each. "
    about = f" Verdicts are {found.about_words}; p is adjusted for all pairs." if found and found.about_words else ""
    return f"{said}Baseline: {one.baseline}.{about}"


def _settling(found: Answer) -> Iterator[str]:
    for one in found.open_questions:
        ways = ((one.needed.seeds, "seeds of each"), (one.needed.prompts, "prompts"))
        said = " or ".join(f"{n:,} {what}" for n, what in ways if n)
        yield f"{one.recipe} against {one.other}: {said}"


def _table(material: Material) -> Table:
    baseline = material.comparison.baseline
    keys = [key for key in map(MetricKey, _METRICS) if key != material.key and material.measured(key)]
    header = ["recipe", str(material.key), "rank", f"difference to {baseline}", "verdict"]
    header += [*(_METRICS[key.metric] for key in keys), "tokens", "gain at equal length"]
    header += ["training, s", "FLOPs per answer", "flags"]
    cells = [list(_cells(material, row, keys)) for row in material.rows]
    kept = [place for place in range(len(header)) if any(row[place].text != "-" for row in cells)]
    rows = [
        Row([own[place] for place in kept], list(_reasons(material, row)))
        for row, own in zip(material.rows, cells, strict=True)
    ]
    header = [header[place] for place in kept]
    return Table(_HELP, header, rows, opens=header.index("verdict"), is_sortable=True)


def _cells(material: Material, row: ComparedRecipe, keys: Sequence[MetricKey]) -> Iterator[Cell]:
    one, ranking = row.metrics.get(material.key), material.comparison.ranking
    value = one.value if one is not None else Estimate(None)
    found = material.difference(row, material.key)
    difference = found[0] if found is not None else Estimate(None)
    is_baseline = row.recipe == material.comparison.baseline
    yield Cell(material.marked(row))
    yield Cell(with_interval(value), value.value)
    rank = ranking.ranges[row.recipe] if ranking is not None else None
    yield Cell("-" if rank is None else str(rank), None if rank is None else rank.first + rank.last / 1000)
    yield Cell(with_interval(difference, "+"), difference.value)
    yield Cell("baseline" if is_baseline else found[1] if found is not None else "not measured")
    for key in keys:
        measured = row.metrics[key].value.value if key in row.metrics else None
        yield Cell(number(measured), measured)
    tokens = row.metrics[_TOKENS].value.value if _TOKENS in row.metrics else None
    gain = material.gains.get(row.recipe)
    changed = "" if gain is None or gain.change is None else f" ({gain.change:+.0%})"
    yield Cell("-" if tokens is None else f"{tokens:.1f}{changed}", tokens)
    yield Cell("-" if gain is None else gain.word, None if gain is None else gain.left)
    seconds = None if row.method in NOT_TRAINED_HERE else row.cost["wall_seconds"]
    times = cost_multiples(material.rows).get(row.recipe)
    said = "-" if seconds is None else shown("wall_seconds", seconds)
    yield Cell(said + ("" if times is None else f" ({times:.3g}x)"), seconds)
    spent = row.cost_per_answer.get("flops_per_answer")
    first = next((r.cost_per_answer for r in material.rows if r.recipe == material.comparison.baseline), {})
    yield Cell(shown_per_answer("flops_per_answer", spent, first.get("flops_per_answer")), spent)
    yield Cell(", ".join(dict.fromkeys(flag.name for flag in row.flags if flag.name not in _OF_ALL)) or "-")


def _reasons(material: Material, row: ComparedRecipe) -> Iterator[Block]:
    """Yields what stands behind a row's verdict."""
    yield from _beside_others(material, row)
    keys = dict.fromkeys([material.key, *material.judges])
    tested = [(key, row.metrics[key]) for key in keys if key in row.metrics and row.metrics[key].difference]
    if tested:
        columns = [dict(_behind(material, row, key, one)) for key, one in tested]
        rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
        title = f"{row.recipe} against {material.comparison.baseline}"
        yield plain_table(title, ["", *(str(key) for key, _ in tested)], rows)
    if row.hacking is not None and (row.hacking.evidence or row.hacking.reasons):
        yield Paragraph(f"Reward hacking along training: {row.hacking.word or 'not measured'}.")
        yield Items([*row.hacking.evidence, *row.hacking.reasons])
    if (picture := hacking_of(material, row.recipe)) is not None:
        yield Drawing(picture)
    flags = [flag for flag in dict.fromkeys(row.flags) if flag.name not in _OF_ALL]
    if flags:
        yield Paragraph("Flags:")
        yield Items([f"{flag.name}: {flag.text}." for flag in flags])


def _beside_others(material: Material, row: ComparedRecipe) -> Iterator[Block]:
    """Yields in a sentence what a row is beside every other."""
    ranking = material.comparison.ranking
    if ranking is None:
        return
    others: dict[str, list[str]] = {}
    for other in ranking.order:
        if other != row.recipe and (word := ranking.verdict(row.recipe, other)) is not None:
            others.setdefault(word, []).append(other)
    said = [f"{_BESIDE.get(word, 'not distinguishable from')} {', '.join(names)}" for word, names in others.items()]
    if said:
        yield Paragraph(f"By {ranking.key}, among all pairs: {'; '.join(said)}.")


def _behind(material: Material, row: ComparedRecipe, key: MetricKey, one: Measurement) -> Iterator[tuple[str, str]]:
    found = material.difference(row, key)
    difference, word = found if found is not None else (Estimate(None), "-")
    alone = one.difference or Estimate(None)
    tested = one.tested
    runs = tested.these_runs if tested is not None else Estimate(None)
    among = "all pairs" if key == material.key else "the rows against the baseline"
    yield "judged by", "the training reward's own classifier" if key.scorer == REWARD_SCORER else "held out of training"
    yield "each seed", ", ".join(number(value) for value in row.by_seed.get(key, ())) or "-"
    yield "verdict", word
    yield "verdict about", tested.estimand if tested is not None else difference.reason or "-"
    yield "difference", with_interval(difference, "+")
    yield "p", p_value(difference.p_value)
    yield "adjusted p", f"{p_value(difference.p_adjusted)} ({among})"
    yield "adjusted p if only the baseline mattered", p_value(alone.p_adjusted)
    yield "difference in these runs alone", with_interval(runs, "+")
    yield "p in these runs alone", p_value(runs.p_value)
    yield "detectable difference", number(detectable(one))
    yield "to settle it", _needed(one)
    yield "difference at equal length", _equal_length(material, row, key, one)
    yield "completions scored", f"{one.n_scored:,}, unscored {one.n_unscored:,}"


def _needed(one: Measurement) -> str:
    needed = settlement(one)
    if needed is None:
        return "-"
    ways = ((needed.seeds, "seeds of each"), (needed.prompts, "prompts"))
    return " or ".join(f"{n:,} {what}" for n, what in ways if n) or "neither prompts nor seeds alone"


def _equal_length(material: Material, row: ComparedRecipe, key: MetricKey, one: Measurement) -> str:
    gain = material.gains.get(row.recipe)
    matched = gain.matched if gain is not None and key == material.key else one.length_matched
    if matched is None:
        return "-"
    share = "" if matched.share is None else f", {matched.share:.0%} of the baseline covered"
    return (
        (with_interval(matched.difference, "+") + share)
        if matched.difference.value is not None
        else (matched.difference.reason or "-")
    )
