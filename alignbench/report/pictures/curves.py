"""Toxicity along training, against the budget spent and against the divergence from the reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from alignbench.comparison.numbers import number
from alignbench.records import MetricKey
from alignbench.report.blocks import Figure, plain_table
from alignbench.report.material import Material
from alignbench.report.pictures import along_training
from alignbench.report.pictures.along_training import Curve, Panel, axes, headed, mean_curve, named, pairs, panels
from alignbench.report.pictures.picture import Picture
from alignbench.report.pictures.svg import Scale, element, joined, marker, path, scale_of

KL = MetricKey("kl")
_Line = list[tuple[float, float]]
_VALIDATION = "Measured on validation prompts along training, so not the numbers of the table."


def against_budget(material: Material) -> Figure | None:
    """Draws toxicity against completions of the budget; None where no run was measured along training."""
    found = along_training.curves(material)
    lines = {
        recipe: [pairs(curve.completions, curve.values(material.key)) for curve in several]
        for recipe, several in found.items()
    }
    remark = f"Thin lines: single seeds; thick: their mean; grey: the other recipes. {_VALIDATION}"
    thick = {recipe: pairs(*mean_curve(several, material.key)) for recipe, several in found.items()}
    name, title = f"{material.several}curve-budget", f"How {material.what} went along the budget"
    return _figure(material, name, title, "completions of the budget", lines, thick, found, remark)


def against_divergence(material: Material) -> Figure | None:
    """Draws toxicity against KL; None where no run was measured along training, or not its KL."""
    if material.key == KL:
        return None
    found = along_training.curves(material)
    lines = {
        recipe: [pairs(curve.values(KL), curve.values(material.key)) for curve in several]
        for recipe, several in found.items()
    }
    remark = (
        "A line for each seed, its points joined in the order of training, a dot at its end; grey: the other recipes. "
        f"{_VALIDATION}"
    )
    name, title = f"{material.several}curve-kl", f"How {material.what} went with KL to the reference"
    return _figure(material, name, title, "KL, nats (by its root)", lines, {}, found, remark)


def _figure(
    material: Material,
    name: str,
    title: str,
    x_title: str,
    lines: dict[str, list[_Line]],
    thick: dict[str, _Line],
    found: dict[str, list[Curve]],
    remark: str,
) -> Figure | None:
    lines = {recipe: kept for recipe, several in lines.items() if (kept := [one for one in several if len(one) > 1])}
    if not lines:
        return None
    places = panels(list(lines))
    points = [point for several in lines.values() for one in several for point in one]

    def scales(panel: Panel) -> tuple[Scale, Scale]:
        right = panel.left + along_training.WIDTH
        x = scale_of([x for x, _ in points], panel.left, right, with_zero=True, kind="even" if thick else "root")
        bottom = panel.top + along_training.HEIGHT
        return x, scale_of([y for _, y in points], bottom, panel.top, with_zero=True)

    # Drawn once, and shown in every panel: twenty recipes would otherwise be drawn twenty times.
    x0, y0 = scales(places[0])
    others = [path(_placed(one, x0, y0), "faint", 0.7) for several in lines.values() for one in several]
    background = element("defs", element("g", *others, id=f"{name}-all"))

    def draw(panel: Panel) -> Iterator[Markup]:
        x, y = scales(panel)
        yield from axes(panel, x, y, x_title)
        yield element("use", href=f"#{name}-all", x=panel.left - places[0].left, y=panel.top - places[0].top)
        own = lines[panel.recipe]
        mean = thick.get(panel.recipe, ())
        is_alone = len(own) == 1 or not mean
        for one in own:
            placed = _placed(one, x, y)
            yield path(placed, "accent", 2.2 if is_alone else 1.0)
            if not thick:
                yield marker(*placed[-1], "dot", "accent", 4)
        if mean and not is_alone:
            yield path(_placed(mean, x, y), "accent", 2.8)

    width, height = along_training.size(len(places))
    body = background + named(str(material.key)) + joined(headed(material, places, draw))
    picture = Picture(name, title, _said(lines), width, height, body, [remark])
    return Figure(picture, plain_table(along_training.numbers_caption(found), *_numbers(material, found)))


def _placed(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> _Line:
    return [(x(a), y(b)) for a, b in points]


def _said(lines: dict[str, list[_Line]]) -> str:
    ends = [
        f"{recipe} from {number(several[0][0][1])} to {number(several[0][-1][1])}" for recipe, several in lines.items()
    ]
    return f"First seed of each recipe: {', '.join(ends)}."


def _numbers(material: Material, found: dict[str, list[Curve]]) -> tuple[list[str], list[list[str]]]:
    keys = [material.key, KL]
    header = ["recipe", "seed", "completions", *map(str, keys)]
    rows = []
    for recipe, several in found.items():
        for curve in several:
            columns = [curve.values(key) for key in keys]
            for place in curve.listed:
                values = [number(column[place]) for column in columns]
                rows.append([material.named(recipe), str(curve.seed), f"{curve.completions[place]:,.0f}", *values])
    return header, rows
