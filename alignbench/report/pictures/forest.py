"""Forest plot: the difference of every recipe to the baseline with its interval, and the ranks that it may have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from alignbench.comparison.flags import REWARD_SCORER
from alignbench.comparison.numbers import p_value, with_interval
from alignbench.comparison.pooling import Measurement
from alignbench.comparison.ranks import RankRange
from alignbench.comparison.rows import ComparedRecipe
from alignbench.records import MetricKey
from alignbench.report.blocks import Figure, plain_table
from alignbench.report.material import Material
from alignbench.report.pictures.picture import Picture, file_name
from alignbench.report.pictures.svg import (
    Scale,
    cut,
    described,
    element,
    joined,
    label,
    line,
    marker,
    scale_of,
    text_width,
    x_axis,
)

_ROW, _TOP, _WIDTH = 26, 34, 960
_NUMBERS, _RANKS = 180.0, 170.0
"""Widths of the columns of numbers and of ranks."""
_MARKS = {
    "better": ("down", "accent"),
    "worse": ("up", "second"),
    "different": ("square", "muted"),
    "not distinguishable": ("ring", "muted"),
    "not tested": ("ring", "muted"),
}
"""Mark and colour by verdict."""
_LEGEND = (
    "Triangle pointing down: better; up: worse; ring: not distinguishable, or not tested; square: different. Lines are "
    "95 % intervals, not adjusted; verdicts follow the adjusted p. !: read the flags of this row first."
)
_RANK_LEGEND = (
    "Right: the ranks that a row may have, by tests of all pairs adjusted together (95 % for all rows at once); the "
    "dot is the rank of the measured value. Rows whose bars overlap are not equal, they have not been told apart."
)


def forest(material: Material, key: MetricKey) -> Figure | None:
    """Draws the differences of one metric; None where there is nothing to compare with."""
    rows = material.measured(key)
    found = [material.difference(row, key) for row, _ in rows]
    if not any(found):
        return None
    ranking = material.comparison.ranking
    ranges = ranking.ranges if ranking is not None and ranking.key == key else {}
    left = min(text_width([material.marked(row) for row, _ in rows], 24), 280)
    right = _WIDTH - _NUMBERS - (_RANKS if ranges else 0)
    bottom = _TOP + _ROW * len(rows)
    ends = [v for one in found if one for v in (one[0].value, one[0].ci_low, one[0].ci_high)]
    scale, baseline = scale_of([0.0, *ends], left, right), material.comparison.baseline
    better = material.better if key == material.key else "lower is better"
    parts = [*x_axis(scale, _TOP - 8, bottom, f"{key}, difference to {baseline} ({better})", 9)]
    parts.append(line(scale(0.0), _TOP - 8, scale(0.0), bottom, "ink", 1.2))
    parts.append(label(right + 16, _TOP - 14, "difference [95 % interval]", "start", "muted", 11))
    for place, (row, _) in enumerate(rows):
        parts += _row(material, row, key, _TOP + _ROW * (place + 0.5), scale)
    if ranges:
        parts += _ranks([(row.recipe, ranges[row.recipe]) for row, _ in rows], bottom)
    words = ", ".join(f"{row.recipe} {one[1]}" for (row, _), one in zip(rows, found, strict=True) if one)
    own = " (the training reward's own classifier)" if key.scorer == REWARD_SCORER else ""
    picture = Picture(
        file_name(f"{material.several}forest-{key.scorer or key.metric}"),
        f"Differences to {baseline} in {key}{own}",
        f"Against {baseline}: {words}.",
        _WIDTH,
        bottom + 42,
        joined(parts),
        [_LEGEND, *([_RANK_LEGEND] if ranges else [])],
    )
    header = ["recipe", "value", "difference", "p", "adjusted p", "verdict", *(["rank"] if ranges else [])]
    numbers = [
        [*cells, *([str(ranges[row.recipe])] if ranges else [])]
        for (row, _), cells in zip(rows, _numbers(material, rows, key), strict=True)
    ]
    return Figure(picture, plain_table("Numbers of this picture", header, numbers))


def _row(material: Material, row: ComparedRecipe, key: MetricKey, y: float, scale: Scale) -> Iterator[Markup]:
    yield label(8, y + 4, cut(material.marked(row), scale.start - 20))
    found = material.difference(row, key)
    if found is None or found[0].value is None or found[1] not in _MARKS:
        word = "baseline" if row.recipe == material.comparison.baseline else "not measured"
        yield label(scale.end + 16, y + 4, word, "start", "muted", 11)
        return
    difference, word = found
    kind, colour = _MARKS[word]
    drawn = [marker(scale(difference.value or 0.0), y, kind, colour)]
    if difference.ci_low is not None and difference.ci_high is not None:
        low, high = scale(difference.ci_low), scale(difference.ci_high)
        drawn.insert(0, line(low, y, high, y, colour, 2))
        drawn += [line(end, y - 4, end, y + 4, colour, 2) for end in (low, high)]
    yield element("g", described(f"{row.recipe}: {with_interval(difference, '+')}, {word}"), *drawn)
    yield label(scale.end + 16, y + 4, with_interval(difference, "+"), size=11)


def _ranks(rows: Sequence[tuple[str, RankRange]], bottom: float) -> Iterator[Markup]:
    n, left = len(rows), _WIDTH - _RANKS + 24
    scale = Scale(1.0, float(max(n, 2)), left, _WIDTH - 16.0)
    for tick in {1, *(round(one) for one in scale.ticks(5)), n}:
        if 1 <= tick <= n and (tick in (1, n) or abs(scale(tick) - scale(n)) > 16 < abs(scale(tick) - left)):
            yield line(scale(tick), _TOP - 8, scale(tick), bottom, "grid")
            yield label(scale(tick), bottom + 15, str(tick), "middle", "muted", 11)
    yield label((scale.start + scale.end) / 2, bottom + 32, "rank, 1 is the best", "middle", "muted")
    for place, (recipe, one) in enumerate(rows):
        y = _TOP + _ROW * (place + 0.5)
        bar = line(scale(one.first) - 3, y, scale(one.last) + 3, y, "faint", 6, stroke_linecap="round")
        said = described(f"{recipe}: rank {place + 1} as measured, {one} by tests")
        yield element("g", said, bar, marker(scale(place + 1), y, "dot", "ink", 3.5))


def _numbers(
    material: Material, rows: Sequence[tuple[ComparedRecipe, Measurement]], key: MetricKey
) -> Iterator[list[str]]:
    for row, one in rows:
        found = material.difference(row, key)
        tested = ["-", "-", "-", "baseline"]
        if found is not None:
            difference, word = found
            p = [p_value(difference.p_value), p_value(difference.p_adjusted)]
            tested = [
                with_interval(difference, "+"),
                *p,
                word if difference.value is not None else difference.reason or "-",
            ]
        yield [material.marked(row), with_interval(one.value), *tested]
