"""What was measured along training, and panels of it: one for each recipe, so that none is told by its colour."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from alignbench.records import MetricKey
from alignbench.report.material import Material
from alignbench.report.pictures.svg import Scale, cut, label, x_axis, y_axis
from alignbench.results.reader import StoredPoint

REWARD = MetricKey("reward_mean")
"""The training reward on the completions of a point."""
WIDTH, HEIGHT = 190.0, 130.0
"""Of a panel."""
_ACROSS, _GAP_X, _GAP_Y, LEFT, TOP = 4, 40.0, 46.0, 56.0, 44.0
MOST_LISTED = 9
_LEAST = 2
"""Points that make a curve."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The points of one run, by step."""

    seed: int
    points: tuple[StoredPoint, ...]

    @property
    def completions(self) -> list[float]:
        """Of the budget, spent at each point."""
        return [float(point.completions) for point in self.points]

    @property
    def listed(self) -> list[int]:
        """The places of the points that stand in a table: all of them, or MOST_LISTED from the first to the last."""
        n = len(self.points)
        return sorted({round(place) for place in np.linspace(0, n - 1, min(n, MOST_LISTED)).tolist()})

    def values(self, key: MetricKey) -> list[float | None]:
        """Returns a metric at each point, None where it was not measured."""
        found = [point.metrics.get(key) for point in self.points]
        return [None if one is None else one.value for one in found]


def curves(material: Material) -> dict[str, list[Curve]]:
    """Returns the curves of each recipe that was measured along its training, seed by seed."""
    found = {
        recipe: [Curve(run.status.seed, run.points) for run, _ in runs.runs if len(run.points) >= _LEAST]
        for recipe, runs in material.recipes.items()
    }
    return {recipe: several for recipe, several in found.items() if several}


def numbers_caption(found: Mapping[str, Sequence[Curve]]) -> str:
    """Returns what stands above the numbers of curves."""
    is_cut = any(len(one.points) > MOST_LISTED for several in found.values() for one in several)
    return "Numbers of this picture" + (f", {MOST_LISTED} points of each curve" if is_cut else "")


def pairs(xs: Sequence[float | None], ys: Sequence[float | None]) -> list[tuple[float, float]]:
    """Returns the points of which both numbers are known."""
    return [(x, y) for x, y in zip(xs, ys, strict=True) if x is not None and y is not None]


def mean_curve(several: Sequence[Curve], key: MetricKey) -> tuple[list[float], list[float | None]]:
    """Returns the mean over seeds at every number of completions that all of them were measured at."""
    by_seed = [dict(pairs(curve.completions, curve.values(key))) for curve in several]
    shared = sorted(set.intersection(*(set(one) for one in by_seed))) if by_seed else []
    return list(shared), [float(np.mean([one[x] for one in by_seed])) for x in shared]


@dataclass(frozen=True, slots=True)
class Panel:
    """The place of one recipe's curve."""

    recipe: str
    left: float
    top: float
    is_first: bool
    """True at the left end of a line of panels, where numbers are."""
    is_lowest: bool
    """True where no panel stands below."""


def panels(recipes: Sequence[str], height: float = HEIGHT) -> list[Panel]:
    """Returns a place for each recipe, four in a line."""
    return [
        Panel(
            recipe,
            LEFT + (place % _ACROSS) * (WIDTH + _GAP_X),
            TOP + (place // _ACROSS) * (height + _GAP_Y),
            is_first=place % _ACROSS == 0,
            is_lowest=place + _ACROSS >= len(recipes),
        )
        for place, recipe in enumerate(recipes)
    ]


def size(n: int, height: float = HEIGHT) -> tuple[float, float]:
    """Returns width and height of a picture with so many panels."""
    across, down = min(n, _ACROSS), -(-n // _ACROSS)
    return LEFT + max(across, 2) * (WIDTH + _GAP_X), TOP + down * (height + _GAP_Y) + 6


def headed(material: Material, places: Sequence[Panel], draw: Callable[[Panel], Iterator[Markup]]) -> Iterator[Markup]:
    """Yields each panel below the name of its recipe."""
    for panel in places:
        yield label(panel.left, panel.top - 8, cut(material.named(panel.recipe), WIDTH), weight="bold")
        yield from draw(panel)


def named(what: str) -> Markup:
    """Returns the name of what all panels measure, above them."""
    return label(LEFT - 44, 16, what, colour="muted")


def axes(panel: Panel, x: Scale, y: Scale, x_title: str) -> Iterator[Markup]:
    """Yields a panel's grid: numbers at the left of each line of panels, a name below the lowest ones."""
    bottom = y.start
    yield from x_axis(x, y.end, bottom, x_title if panel.is_lowest else "", 4)
    yield from y_axis(y, panel.left, panel.left + WIDTH, most=4, with_numbers=panel.is_first)
