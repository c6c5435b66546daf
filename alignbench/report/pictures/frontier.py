"""What a lower toxicity is paid with: toxicity against divergence, perplexity and cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from alignbench.comparison.numbers import with_interval
from alignbench.comparison.pooling import trained_for
from alignbench.records import MetricKey
from alignbench.report.blocks import Figure, plain_table
from alignbench.report.material import Material, has_warning
from alignbench.report.pictures.picture import Picture
from alignbench.report.pictures.svg import (
    Kind,
    Scale,
    described,
    element,
    joined,
    label,
    line,
    marker,
    path,
    scale_of,
    x_axis,
    y_axis,
)
from alignbench.statistics.estimate import Estimate

_PANEL, _GAP, _LEFT, _TOP, _HEIGHT = 245, 40, 56, 34, 240
_LEGEND = (
    "Letters are those of the table; crosses are 95 % intervals. The stepped line joins the rows that no other row "
    "undercuts in both, by measured values alone, which no test stands behind. !: read the flags of this row first."
)


@dataclass(frozen=True, slots=True)
class Price:
    """What a lower toxicity may be paid with."""

    title: str
    values: Mapping[str, Estimate]
    """By recipe; those without a value are missing."""
    kind: Kind


def prices(material: Material) -> list[Price]:
    """Returns those that were measured, each on the scale that keeps small ones apart."""
    metrics: dict[MetricKey, tuple[str, Kind]] = {
        MetricKey("kl"): ("KL to the reference, nats (by its root)", "root"),
        MetricKey("perplexity"): ("perplexity (by its logarithm)", "log"),
    }
    found = [
        Price(title, _measured(material, key), kind) for key, (title, kind) in metrics.items() if key != material.key
    ]
    seconds = {row.recipe: trained_for(row.method, row.cost["wall_seconds"]) for row in material.rows}
    known = {recipe: Estimate(one) for recipe, one in seconds.items() if one is not None}
    found.append(Price("seconds of training (by their root)", known, "root"))
    return [price for price in found if len({one.value for one in price.values.values()}) > 1]


def _measured(material: Material, key: MetricKey) -> dict[str, Estimate]:
    values = {row.recipe: row.metrics[key].value for row in material.rows if key in row.metrics}
    return {recipe: one for recipe, one in values.items() if one.value is not None}


def frontier(material: Material) -> Figure | None:
    """Draws a panel for each price; None where there is none, or no toxicity that is better where it is lower."""
    if material.better != "lower is better":
        return None
    toxicity = _measured(material, material.key)
    panels = [price for price in prices(material) if len(price.values.keys() & toxicity.keys()) > 1]
    if not panels:
        return None
    bottom = _TOP + _HEIGHT
    ends = [v for one in toxicity.values() for v in (one.value, one.ci_low, one.ci_high)]
    y = scale_of(ends, bottom, _TOP, with_zero=True)
    parts: list[Markup] = []
    for place, price in enumerate(panels):
        left = _LEFT + place * (_PANEL + _GAP)
        limits = [v for one in price.values.values() for v in (one.value, one.ci_low, one.ci_high)]
        x = scale_of(limits, left, left + _PANEL, kind=price.kind)
        parts += y_axis(y, left, left + _PANEL, str(material.key) if place == 0 else "")
        parts += x_axis(x, _TOP, bottom, price.title, 5)
        parts += _panel(material, price, toxicity, x, y)
    width = _LEFT + len(panels) * (_PANEL + _GAP) - _GAP + 16
    best = {price.title: lowest(price, toxicity) for price in panels}
    said = "; ".join(f"against {title}: {', '.join(names)}" for title, names in best.items())
    picture = Picture(
        f"{material.several}frontier",
        f"What a lower {material.what} is paid with",
        f"Rows that no other undercuts in both, by measured values: {said}.",
        width,
        bottom + 42,
        joined(parts),
        [_LEGEND],
    )
    header = ("recipe", str(material.key), *(price.title for price in panels), "not undercut against")
    return Figure(picture, plain_table("Numbers of this picture", header, _numbers(material, panels, toxicity, best)))


def lowest(price: Price, toxicity: Mapping[str, Estimate]) -> list[str]:
    """Returns the recipes that no other undercuts in toxicity and price, the cheapest first.

    One undercuts another that is as low or lower in both, and lower in one of them.
    """
    points = {
        recipe: (price.values[recipe].value or 0.0, one.value or 0.0)
        for recipe, one in toxicity.items()
        if recipe in price.values
    }

    def is_undercut(at: tuple[float, float]) -> bool:
        return any(x <= at[0] and y <= at[1] and (x, y) != at for x, y in points.values())

    return sorted((recipe for recipe, at in points.items() if not is_undercut(at)), key=lambda one: points[one])


def _panel(material: Material, price: Price, toxicity: Mapping[str, Estimate], x: Scale, y: Scale) -> Iterator[Markup]:
    yield from _steps(price, toxicity, x, y)
    rows = [row for row in material.rows if row.recipe in price.values and row.recipe in toxicity]
    points = [(x(price.values[row.recipe].value or 0.0), y(toxicity[row.recipe].value or 0.0)) for row in rows]
    taken: list[tuple[float, float]] = []
    for row, at in zip(rows, points, strict=True):
        paid, harm = price.values[row.recipe], toxicity[row.recipe]
        crosses = [*_interval(paid, x, at, is_level=True), *_interval(harm, y, at, is_level=False)]
        said = f"{row.recipe}: {material.key} {with_interval(harm)}, {price.title} {with_interval(paid)}"
        kind, colour = ("ring", "muted") if row.recipe == material.comparison.baseline else ("dot", "accent")
        yield element("g", described(said), *crosses, marker(*at, kind, colour, 4.5))
        letter = material.letters[row.recipe] + ("!" if has_warning(row) else "")
        taken.append(_free(at, [*points, *taken], x))
        yield label(taken[-1][0], taken[-1][1] + 4, letter, "middle", weight="bold")


def _steps(price: Price, toxicity: Mapping[str, Estimate], x: Scale, y: Scale) -> Iterator[Markup]:
    names = lowest(price, toxicity)
    corners = [(x(price.values[name].value or 0.0), y(toxicity[name].value or 0.0)) for name in names]
    if len(corners) > 1:
        way = [corners[0]]
        for before, after in pairwise(corners):
            way += [(after[0], before[1]), after]
        yield path(way, "faint", 1.5, stroke_dasharray="4 3")


def _interval(one: Estimate, scale: Scale, at: tuple[float, float], *, is_level: bool) -> Iterator[Markup]:
    if one.ci_low is None or one.ci_high is None:
        return
    low, high = scale(one.ci_low), scale(one.ci_high)
    ends = (low, at[1], high, at[1]) if is_level else (at[0], low, at[0], high)
    yield line(*ends, "faint", 1.5)


def _free(at: tuple[float, float], taken: Sequence[tuple[float, float]], x: Scale) -> tuple[float, float]:
    """Returns the middle of a place for a letter near a point: the nearest that is free, inside of the panel."""
    ways = [(1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1.2), (0, 1.2), (1.3, 0), (-1.3, 0)]
    places = [(at[0] + far * dx, at[1] + far * dy) for far in (10, 16, 24, 34, 46) for dx, dy in ways]
    inside = [place for place in places if x.start + 6 <= place[0] <= x.end - 2]

    def n_near(place: tuple[float, float]) -> int:
        return sum(abs(place[0] - a) < 13 and abs(place[1] - b) < 11 for a, b in taken if (a, b) != at)

    return min(inside, key=n_near)  # of equal ones the first, which is the nearest


def _numbers(
    material: Material, panels: Sequence[Price], toxicity: Mapping[str, Estimate], best: Mapping[str, Sequence[str]]
) -> list[list[str]]:
    return [
        [
            material.marked(row),
            with_interval(toxicity.get(row.recipe, Estimate(None))),
            *(with_interval(price.values.get(row.recipe, Estimate(None))) for price in panels),
            "; ".join(title for title, names in best.items() if row.recipe in names) or "-",
        ]
        for row in material.rows
    ]
