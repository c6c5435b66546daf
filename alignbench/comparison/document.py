"""What a comparison shows, in which order and in which words; how it is set is the writers' business."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from alignbench.comparison import improvements, published
from alignbench.comparison.chunks import WIDTH, chunks
from alignbench.comparison.comparison import Comparison
from alignbench.comparison.cost_columns import COSTS, ONLY_IF_SPENT, PER_ANSWER, shown, shown_per_answer
from alignbench.comparison.flags import HEADLINE, REWARD_SCORER, WARNINGS, Flag, judgement, lost_at_equal_length
from alignbench.comparison.numbers import number, p_value, with_interval
from alignbench.comparison.pooling import NOT_TRAINED_HERE, Measurement
from alignbench.comparison.rows import ComparedRecipe, detectable, settlement
from alignbench.comparison.threads import in_threads
from alignbench.errors import UsageError, did_you_mean
from alignbench.records import MetricKey
from alignbench.statistics.estimate import ALPHA, Estimate

MARKS = {"better": "+", "worse": "-", "different": "*", "not distinguishable": "="}
SECTIONS = ("fluency", "divergence", "length", "diversity", "degeneration", "dexperts")
"""Columns of the table of quality, in their order; those of other sections come after them."""
_LEGEND = (
    "After a number: + better, - worse, * different, = not distinguishable from the baseline; nothing: not tested."
)
_LENGTH_LEGEND = (
    "At equal length: completions are compared within bins of length, weighted by the baseline's lengths. Covered: the "
    "share of the baseline's completions in bins that hold completions of both sides."
)
_MARK = "! Read the flags below before believing this verdict."
_DESIGN_LEGEND = (
    "Detectable: the true difference that 80 % of repetitions would show, {family}. To settle it: prompts with these "
    "seeds, or seeds of each recipe with these prompts, that would show a true difference as large as the measured one."
)


@dataclass(frozen=True, slots=True)
class Section:
    """One table with its title and the remarks below it."""

    name: str
    """What `--section` calls it; several tables may have one name."""
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    remarks: Sequence[str] = ()


SECTION_NAMES = (
    *("toxicity", "design", "pairs", "before_and_after", "published", "equal_length", "hacking", "other_toxicity"),
    *("quality", "cost", "models", "reward_models", "flags", "notes", "skipped"),
)
"""What `--section` takes, in the order of the page."""


def require_sections(names: Sequence[str]) -> None:
    """UsageError where a name is none of SECTION_NAMES."""
    for name in names:
        if name not in SECTION_NAMES:
            known = ", ".join(SECTION_NAMES)
            raise UsageError(f"--section: got {name!r}, expected one of {known}{did_you_mean(name, SECTION_NAMES)}")


@dataclass(frozen=True, slots=True)
class Document:
    """A comparison in words and numbers."""

    watermark: Sequence[str]
    """A heading and the differing fields, where runs are side by side that do not belong together; else empty."""
    headline: str
    sections: Sequence[Section]
    lists: Sequence[tuple[str, Sequence[str]]]
    """Flags, notes and skipped runs: title and lines, none of them empty."""


def document(comparison: Comparison) -> Document:
    """Returns a comparison as sections and lists; of several models each by itself, and then all of them."""
    tables = [(f"{one.model}: " if one.model else "", one) for one in (*comparison.blocks, comparison)]
    watermark, headlines, sections, lists = [], [], [], []
    for name, one in tables:
        watermark += [f"{name}{line}" for line in _watermark(one)]
        headlines += [f"{name}{said}" for said in [_headline(one)] if said]
        sections += [replace(section, title=f"{name}{section.title}") for section in _sections(one)]
        said = {"Flags": _flag_lines(one), "Notes": one.notes, f"{len(one.skipped)} skipped": one.skipped}
        lists += [(f"{name}{title}", [" ".join(str(line).split()) for line in lines]) for title, lines in said.items()]
    return Document(watermark, " ".join(headlines), sections, [one for one in lists if one[1]])


def _sections(comparison: Comparison) -> Iterator[Section]:
    rows = comparison.recipes
    headlines = list(dict.fromkeys(key for row in rows for key in row.metrics if key.metric == HEADLINE))
    judges_first = sorted(headlines, key=lambda key: key.scorer == REWARD_SCORER)
    for key in judges_first:
        yield _toxicity(comparison, key)
    for key in judges_first:
        yield from _design(comparison, key)
        yield from _every_pair(comparison, key)
    if (comparison.protocol or "").rstrip("*") == improvements.PROTOCOL:
        found = list(improvements.rows_of(rows))
        yield Section("before_and_after", improvements.TITLE, improvements.HEADER, found, [improvements.LEGEND])
    if (comparison.protocol or "").rstrip("*") == published.PROTOCOL:
        found = [published.cells_of(row) for row in published.ROWS]
        yield Section("published", published.TITLE, published.HEADER, found, [published.LEGEND])
    yield from _equal_length(rows)
    yield from _hacking(rows)
    if rows:
        toxicity, quality = _columns(rows, [key.scorer for key in headlines])
        yield from _compact("other_toxicity", "Other toxicity metrics", rows, toxicity)
        yield from _compact("quality", "Quality", rows, quality, with_reward=True)
        yield from _costs("Cost of a run, upstream included", rows)
    if comparison.across is not None:
        header, body = comparison.across.table()
        title = f"Verdicts on {len(comparison.blocks)} models, each within its own"
        yield Section("models", title, header, body, [comparison.across.carries_over])
    for group in comparison.reward_models:
        yield _reward_models(group)
        yield from _costs("Cost of a reward model", group)


def _columns(rows: Sequence[ComparedRecipe], scorers: Sequence[str | None]) -> tuple[list[MetricKey], list[MetricKey]]:
    """Returns the metrics of the table of toxicity but its headline, and of that of quality, in their order."""
    traits = {key: one.traits for row in rows for key, one in row.metrics.items()}
    keys = sorted(traits, key=lambda key: traits[key].order)
    toxicity = [key for key in keys if traits[key].section == "toxicity" and key.metric != HEADLINE]
    quality = [key for key in keys if traits[key].section not in ("toxicity", "")]
    by_section, by_scorer = ({one: place for place, one in enumerate(order)} for order in (SECTIONS, scorers))
    return (
        sorted(toxicity, key=lambda key: by_scorer.get(key.scorer, len(scorers))),
        sorted(quality, key=lambda key: by_section.get(traits[key].section, len(SECTIONS))),
    )


def _toxicity(comparison: Comparison, key: MetricKey) -> Section:
    role = "the training reward's own classifier" if key.scorer == REWARD_SCORER else "held-out judge"
    rows, remarks = [], []
    measured = (row.metrics.get(key) for row in comparison.recipes)
    is_mixed = len({one.tested.estimand for one in measured if one is not None and one.tested is not None}) > 1
    for row in comparison.recipes:
        one = row.metrics.get(key)
        if one is None:
            continue
        difference = one.difference or Estimate(None)
        alone, found = judgement(one), comparison.verdict(row, key)
        word: str = found or ("baseline" if row.recipe == comparison.baseline else "-")
        if found != alone:
            remarks.append(
                f"{row.recipe}: {alone} beside {comparison.baseline} alone, {found} once all pairs are counted."
            )
        lost = lost_at_equal_length(difference, one.length_matched.difference) if one.length_matched else None
        word += f", {lost} at equal length" if lost and word == "better" else ""
        word += " (these runs)" if is_mixed and one.tested and one.tested.estimand == "these runs" else ""
        word += _mark(row)
        p, adjusted = p_value(difference.p_value), p_value(difference.p_adjusted)
        values = [with_interval(one.value), with_interval(difference, "+"), p, adjusted]
        rows.append([row.recipe, _seeds(row), *values, word])
        reasons = dict.fromkeys(r for r in (one.value.reason, difference.reason) if r)
        remarks += [f"{row.recipe}: {reason}" for reason in reasons]
    if any(cells[-1].endswith("!") for cells in rows):
        remarks.insert(0, _MARK)
    header = ["recipe", "seeds", HEADLINE, f"difference to {comparison.baseline}", "p", "adjusted p", "verdict"]
    title = f"{key}: {role} (lower is better; 95 % intervals)"
    return Section("toxicity", title, header, rows, remarks)


def _mark(*rows: ComparedRecipe) -> str:
    """Returns what is put after a verdict on recipes of which one has a warning."""
    return " !" if any(flag.name in WARNINGS for row in rows for flag in row.flags) else ""


def _design(comparison: Comparison, key: MetricKey) -> Iterator[Section]:
    """Yields what the verdicts are about, the same for these runs alone, and what the design could have seen."""
    tested = [
        (row.recipe, one, one.tested)
        for row in comparison.recipes
        if (one := row.metrics.get(key)) is not None and one.tested is not None
    ]
    power = in_threads(lambda each: [number(detectable(each[1])), _settled(each[1])], tested)
    rows = [
        [recipe, test.estimand, with_interval(test.these_runs, "+"), p_value(test.these_runs.p_value), *cells]
        for (recipe, _, test), cells in zip(tested, power, strict=True)
    ]
    n_tests = max((test.n_tests for _, _, test in tested), default=1)
    if rows:
        header = ["recipe", "verdict about", "difference in these runs", "p", "detectable difference", "to settle it"]
        alone = f"if it were the only one among the {n_tests} comparisons, at the level {ALPHA} / {n_tests}"
        family = alone if n_tests > 1 else f"at the level {ALPHA}"
        legend = _DESIGN_LEGEND.format(family=family)
        yield Section("design", f"{key}: what stands behind the verdicts", header, rows, [legend])


def _every_pair(comparison: Comparison, key: MetricKey) -> Iterator[Section]:
    """Yields every recipe against every other, where asked for."""
    rows, estimands = [], []
    recipes = {row.recipe: row for row in comparison.recipes}
    for pair in comparison.pairs:
        difference, tested = pair.measurement.difference, pair.measurement.tested
        if pair.key == key and difference is not None:
            p = [p_value(difference.p_value), p_value(difference.p_adjusted)]
            word = (judgement(pair.measurement) or "-") + _mark(recipes[pair.recipe], recipes[pair.other])
            rows.append([pair.recipe, pair.other, with_interval(difference, "+"), *p, word])
            estimands.append(tested.estimand if tested is not None else "-")
    if rows:
        header = ["recipe", "against", "difference", "p", "adjusted p", "verdict"]
        if len(set(estimands)) > 1:
            header.append("about")
            rows = [[*row, estimand] for row, estimand in zip(rows, estimands, strict=True)]
        remarks = [_MARK] if any(row[5].endswith("!") for row in rows) else []
        title = f"{key}: every pair, p adjusted for all {len(rows)}"
        yield Section("pairs", title, header, rows, remarks)


def _settled(one: Measurement) -> str:
    """Returns in words what would show a difference as large as the measured one."""
    needed = settlement(one)
    if one.tested is None or needed is None:
        return "-"
    ways = [
        f"{count:,} {name}"
        for count, name in ((needed.prompts, "prompts"), (needed.seeds, "seeds"))
        if count is not None
    ]
    if ways:
        return " or ".join(ways) if needed.prompts is not None else f"{ways[0]}; more prompts cannot"
    return "more prompts cannot" if one.tested.method is None else "neither prompts nor seeds alone"


def _equal_length(rows: Sequence[ComparedRecipe]) -> Iterator[Section]:
    """Yields toxicity at equal length, for recipes whose completions have changed length."""
    body, remarks = [], [_LENGTH_LEGEND]
    for row in rows:
        for key, one in row.metrics.items():
            if one.length_matched is None or one.difference is None:
                continue
            matched, share = one.length_matched.difference, one.length_matched.share
            covered = "-" if share is None else f"{share:.1%}"
            plain = (
                number(one.difference.value) if (one.difference.value or 0) <= 0 else f"+{number(one.difference.value)}"
            )
            body.append([row.recipe, str(key), plain, with_interval(matched, "+"), covered])
            if matched.reason:
                remarks.append(f"{row.recipe}, {key}: {matched.reason}")
    if body:
        header = ["recipe", "metric", "difference", "difference at equal length", "baseline covered"]
        yield Section("equal_length", "Toxicity at equal length (95 % intervals, these runs)", header, body, remarks)


def _hacking(rows: Sequence[ComparedRecipe]) -> Iterator[Section]:
    """Yields what the evaluations along training say about reward hacking."""
    body, remarks = [], []
    for row in rows:
        found = row.hacking
        if found is None or (found.word is None and row.method in NOT_TRAINED_HERE):
            continue
        remarks += [f"{row.recipe}, {sentence}" for sentence in (*found.evidence, *found.reasons)]
        if found.word is not None:
            onset = "-" if found.onset_completions is None else f"{found.onset_completions:,}"
            seeds = f"{found.n_seeds} of {found.n_measured}"
            later = found.word == "none" and any(flag.name == "reward_hacking" for flag in row.flags)
            body.append([row.recipe, f"{found.word}, flagged after it" if later else found.word, seeds, onset])
    if body or remarks:
        header = ["recipe", "word", "seeds", "onset in completions"]
        yield Section("hacking", "Reward hacking along training", header, body, remarks)


def _compact(
    name: str, title: str, rows: Sequence[ComparedRecipe], keys: Sequence[MetricKey], with_reward: bool = False
) -> Iterator[Section]:
    """Yields tables of values with marks, as many columns at a time as a terminal holds."""
    present = [key for key in keys if any(key in row.metrics for row in rows)]
    columns: list[tuple[str, list[str]]] = [
        (str(key), [_marked(row.metrics.get(key)) for row in rows]) for key in present
    ]
    if with_reward and any(row.train_reward is not None for row in rows):
        columns.append(("train_reward", [number(row.train_reward) for row in rows]))
    remarks = [_LEGEND]
    traits = [row.metrics[key].traits for row in rows for key in present if key in row.metrics]
    if any(one.scale == "log" for one in traits):
        remarks.append("Perplexities are tested as mean log-perplexity; differences in JSON are of logarithms.")
    remarks += [
        f"{row.recipe}, {key}: {row.metrics[key].value.reason}"
        for row in rows
        for key in present
        if key in row.metrics and row.metrics[key].value.value is None
    ]
    shifted = [row.recipe for row in rows if any(flag.name == "length_shift" for flag in row.flags)]
    if shifted and any(one.depends_on_length for one in traits):
        remarks.append(
            "distinct-n, corpus-distinct-n and self-BLEU depend on the length of the texts, which has changed in "
            f"{', '.join(shifted)}."
        )
    yield from _in_chunks(name, title, rows, columns, remarks)


def _in_chunks(
    name: str,
    title: str,
    rows: Sequence[ComparedRecipe],
    columns: Sequence[tuple[str, list[str]]],
    remarks: Sequence[str],
) -> Iterator[Section]:
    parts = list(chunks(columns, WIDTH - max(len(row.recipe) for row in rows)))
    for chunk in parts:
        header = ["recipe", *(name for name, _ in chunk)]
        body = [[row.recipe, *(cells[i] for _, cells in chunk)] for i, row in enumerate(rows)]
        is_last = chunk is parts[-1]
        yield Section(
            name, title if chunk is parts[0] else f"{title}, continued", header, body, remarks if is_last else []
        )


def _costs(title: str, rows: Sequence[ComparedRecipe]) -> Iterator[Section]:
    """Yields tables of costs, as many columns at a time as a terminal holds."""
    columns = [("method", [row.method for row in rows])]
    columns += [
        (shown_as, [shown(name, row.cost[name]) for row in rows])
        for name, shown_as in COSTS.items()
        if name not in ONLY_IF_SPENT or any(row.cost[name] for row in rows)
    ]
    remarks = ["FLOPs are estimates from counts of tokens."]
    answers = [row.cost_per_answer for row in rows]
    if any(answers):  # the first row is the baseline
        columns += [
            (shown_as, [shown_per_answer(name, one.get(name), answers[0].get(name)) for one in answers])
            for name, shown_as in PER_ANSWER.items()
            if any(name in one for one in answers)
        ]
        times = f"; x: times that of {rows[0].recipe}" if answers[0] else ""
        remarks.append(f"Per answer: the mean over the completions of the evaluation{times}.")
    remarks += ["Means over seeds, memory the highest."] if any(len(row.seeds) > 1 for row in rows) else []
    yield from _in_chunks("cost", title, rows, columns, remarks)


def _reward_models(group: Sequence[ComparedRecipe]) -> Section:
    keys = list(dict.fromkeys(key for row in group for key in row.metrics))
    header = ["recipe", "seeds", *(str(key) for key in keys)]
    body = []
    for row in group:
        cells = [with_interval(row.metrics[key].value) if key in row.metrics else "-" for key in keys]
        body.append([row.recipe, _seeds(row), *cells])
    return Section("reward_models", "Reward models (95 % intervals)", header, body)


def _seeds(row: ComparedRecipe) -> str:
    """Returns the seeds, three or more in a row as `first-last`."""
    runs: list[list[int]] = []
    for seed in row.seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


def _marked(one: Measurement | None) -> str:
    if one is None:
        return "-"
    tested = one.difference is not None and one.difference.value is not None
    word = judgement(one)
    mark = MARKS.get(word or "") if tested else None
    return f"{number(one.value.value)} {mark}" if mark else number(one.value.value)


def _headline(comparison: Comparison) -> str:
    if not comparison.recipes:
        return ""
    samples, n_prompts = comparison.samples_per_prompt, comparison.n_prompts
    return (
        f"Protocol {comparison.protocol}: {n_prompts} held-out prompt{'s' if n_prompts != 1 else ''}, {samples} "
        f"completion{'s' if samples > 1 else ''} each. Baseline: {comparison.baseline}."
    )


def _watermark(comparison: Comparison) -> list[str]:
    if not comparison.mismatches:
        return []
    heading = "NOT COMPARABLE: shown side by side on request only. These runs differ in:"
    return [heading, *map(str, comparison.mismatches)]


def _flag_lines(comparison: Comparison) -> list[str]:
    """Returns the flags in words; those that hold for the whole table are said elsewhere."""
    rows = [*comparison.recipes, *(row for group in comparison.reward_models for row in group)]
    general = ("seeds_not_covered", "mismatch")
    flagged: dict[Flag, list[str]] = {}
    for row in rows:
        for flag in row.flags:
            if flag.name not in general:
                flagged.setdefault(flag, []).append(row.recipe)
    return [f"{', '.join(recipes)}: {flag.name}: {flag.text}." for flag, recipes in flagged.items()]
