"""What the recipes cost: training once, an answer each time; they are never added up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from alignbench.comparison.cost_columns import shown
from alignbench.comparison.pooling import RecipeRuns, trained_for
from alignbench.records import Cost
from alignbench.report.blocks import Figure, plain_table
from alignbench.report.material import Material
from alignbench.report.pictures.picture import Picture
from alignbench.report.pictures.svg import box, cut, described, element, joined, label, line, text_width

_ROW, _TOP, _BARS, _NUMBER, _GAP = 24.0, 52.0, 150.0, 74.0, 16.0
_LEGEND = (
    "Solid: the run's own training; striped: what it was built on, charged to it. Means over seeds; FLOPs are "
    "estimates from counts of tokens. Every column has a scale of its own that begins at 0."
)


@dataclass(frozen=True, slots=True)
class Bars:
    """One column: an amount by recipe, None where it is not known."""

    title: str
    field: str
    own: dict[str, float | None]
    upstream: dict[str, float]

    def total(self, recipe: str) -> float | None:
        """Returns the whole bar."""
        own = self.own[recipe]
        return None if own is None else own + self.upstream.get(recipe, 0.0)


def costs(material: Material) -> Figure | None:
    """Draws training and answers apart; None where nothing was spent."""
    training, answers = _training(material), _answers(material)
    columns = [one for one in (*training, *answers) if any(one.total(row.recipe) for row in material.rows)]
    if not columns:
        return None
    names = [material.named(row.recipe) for row in material.rows]
    left = min(text_width(names, 24), 260)
    parts = [_stripes(material)]
    for place, row in enumerate(material.rows):
        parts.append(label(8, _TOP + _ROW * (place + 0.5) + 4, cut(material.named(row.recipe), left - 16)))
    at, group = left, ""
    for column in columns:
        is_answer = column in answers
        heading = "One answer" if is_answer else "Training"
        if heading != group:
            parts.append(label(at, 16, heading, weight="bold"))
            group = heading
        parts += _column(material, column, at)
        at += _BARS + _NUMBER + _GAP
    height = _TOP + _ROW * len(names) + 12
    first = columns[0]
    words = ", ".join(f"{row.recipe} {_cell(first, row.recipe)}" for row in material.rows)
    picture = Picture(
        f"{material.several}costs",
        "What training and what an answer cost",
        f"{_full(first, first in answers)}: {words}.",
        at,
        height,
        joined(parts),
        [_LEGEND],
    )
    header = ["recipe", *(_full(one, one in answers) for one in columns)]
    return Figure(picture, plain_table("Numbers of this picture", header, _numbers(material, columns)))


def _training(material: Material) -> list[Bars]:
    def mean(runs: RecipeRuns, name: str, side: str) -> float:
        return float(np.mean([_amount(getattr(run.status, side), name) for run, _ in runs.runs]))

    recipes = material.recipes.items()
    return [
        Bars(
            title,
            name,
            {recipe: trained_for(runs.method, mean(runs, name, "cost")) for recipe, runs in recipes},
            {recipe: mean(runs, name, "upstream_cost") for recipe, runs in recipes},
        )
        for name, title in {"wall_seconds": "seconds", "flops": "FLOPs"}.items()
    ]


def _amount(cost: Cost, name: str) -> float:
    if name == "flops":
        return cost.generation_flops + cost.forward_flops + cost.backward_flops
    return float(getattr(cost, name))


def _answers(material: Material) -> list[Bars]:
    fields = {"flops_per_answer": "FLOPs", "tokens_per_answer": "tokens"}
    return [
        Bars(title, name, {row.recipe: row.cost_per_answer.get(name) for row in material.rows}, {})
        for name, title in fields.items()
    ]


def _column(material: Material, column: Bars, left: float) -> Iterator[Markup]:
    most = max(column.total(row.recipe) or 0.0 for row in material.rows)
    yield label(left, _TOP - 10, column.title, colour="muted")
    yield line(left, _TOP - 4, left, _TOP + _ROW * len(material.rows), "faint")
    for place, row in enumerate(material.rows):
        y, total = _TOP + _ROW * (place + 0.5), column.total(row.recipe)
        if total is None:
            yield label(left + 6, y + 4, "not known", colour="muted", size=11)
            continue
        own = _BARS * (column.own[row.recipe] or 0.0) / most
        whole = _BARS * total / most
        said = described(f"{row.recipe}: {column.title} {shown(column.field, total)}")
        bars = [box(left, y - 7, own, 14)]
        if whole > own:
            outline = {"stroke": "#0b5fa5", "class_": "s-accent", "fill": f"url(#{material.several}stripes)"}
            bars.append(element("rect", x=left + own, y=y - 7, width=whole - own, height=14.0, **outline))
        yield element("g", said, *bars)
        yield label(left + whole + 6, y + 4, shown(column.field, total), size=11)


def _stripes(material: Material) -> Markup:
    stripe = element("path", d="M0 6L6 0", stroke="#0b5fa5", stroke_width=1.5, class_="s-accent")
    return element(
        "defs",
        element("pattern", stripe, id=f"{material.several}stripes", width=6, height=6, patternUnits="userSpaceOnUse"),
    )


def _full(column: Bars, is_answer: bool) -> str:
    return f"{column.title} of an answer" if is_answer else f"{column.title} of training, upstream included"


def _numbers(material: Material, columns: Sequence[Bars]) -> list[list[str]]:
    return [[material.named(row.recipe), *(_cell(column, row.recipe) for column in columns)] for row in material.rows]


def _cell(column: Bars, recipe: str) -> str:
    total = column.total(recipe)
    return "-" if total is None else shown(column.field, total)
