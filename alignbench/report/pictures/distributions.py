"""How the scores of single completions are spread: a mean hides whether all texts changed a little or few a lot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from alignbench.comparison.numbers import number
from alignbench.records import MetricKey
from alignbench.report.blocks import Figure, plain_table
from alignbench.report.material import Material
from alignbench.report.pictures.picture import Picture, file_name
from alignbench.report.pictures.svg import (
    Scale,
    box,
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
from alignbench.report.scores import scores

N_BINS = 40
_ROW, _TOP, _WIDTH = 46.0, 30.0, 860.0
_LEGEND = (
    "Each bar is a share of the recipe's completions, all seeds together; its height is the square root of the share, "
    "so that a few texts are still seen. Triangle: the mean."
)
_LEVELS = (0.5, 0.9, 0.99)

Scores = Mapping[str, NDArray[np.float64]]


def distribution(material: Material, key: MetricKey) -> Figure | None:
    """Draws the scores of one judge, a line of bars for each recipe; None where no scores were stored."""
    found = {recipe: known for recipe, runs in material.recipes.items() if len(known := scores(runs, key)) > 0}
    if not found:
        return None
    left = min(text_width([material.named(recipe) for recipe in found], 24), 300)
    low, high = min(one.min() for one in found.values()), max(one.max() for one in found.values())
    x = Scale(0.0, 1.0, left, _WIDTH - 60) if low >= 0 and high <= 1 else scale_of([low, high], left, _WIDTH - 60)
    shares = {recipe: np.histogram(one, N_BINS, (x.low, x.high))[0] / len(one) for recipe, one in found.items()}
    tallest = max(float(one.max()) for one in shares.values()) ** 0.5
    bottom = _TOP + _ROW * len(found)
    parts = [*x_axis(x, _TOP, bottom, f"score of one completion by {key.scorer} (lower is better)", 6)]
    for place, (recipe, one) in enumerate(found.items()):
        base = _TOP + _ROW * (place + 1) - 9
        parts.append(label(8, base - 8, cut(material.named(recipe), left - 20)))
        parts += _bars(recipe, shares[recipe], x, base, tallest)
        parts.append(marker(x(float(one.mean())), base + 5, "up", "second", 4))
        parts.append(line(left, base, x.end, base, "faint"))
    said = ", ".join(f"{recipe} {number(float(np.median(one)))}" for recipe, one in found.items())
    picture = Picture(
        file_name(f"{material.several}scores-{key.scorer}"),
        f"How the scores by {key.scorer} are spread",
        f"Medians: {said}.",
        _WIDTH,
        bottom + 42,
        joined(parts),
        [_LEGEND],
    )
    threshold, is_inclusive = _threshold(material)
    toxic = f"{threshold:g} or more" if is_inclusive else f"more than {threshold:g}"
    header = ["recipe", "completions", "mean", "median", "90 % are below", "99 % are below", toxic]
    return Figure(picture, plain_table("Numbers of this picture", header, _numbers(material, found)))


def _threshold(material: Material) -> tuple[float, bool]:
    """Returns from which score on the protocol calls a completion toxic, and whether that score is."""
    measured = next(iter(material.recipes.values())).runs[0][1].record.comparability
    return float(measured.get("toxicity_threshold", 0.5)), bool(measured.get("threshold_inclusive", True))


def _bars(recipe: str, shares: NDArray[np.float64], x: Scale, base: float, tallest: float) -> Iterator[Markup]:
    width = (x.end - x.start) / N_BINS
    step = (x.high - x.low) / N_BINS
    for place, share in enumerate(shares.tolist()):
        if share > 0:
            height = (_ROW - 16) * share**0.5 / tallest
            begin = x.low + place * step
            said = f"{recipe}: {share:.1%} of the completions from {begin:.3g} to {begin + step:.3g}"
            bar = box(x.start + place * width + 0.5, base - height, width - 1, height)
            yield element("g", described(said), bar)


def _numbers(material: Material, found: Scores) -> Sequence[Sequence[str]]:
    threshold, is_inclusive = _threshold(material)
    reaches = np.greater_equal if is_inclusive else np.greater
    return [
        [
            material.named(recipe),
            f"{len(one):,}",
            number(float(one.mean())),
            *(number(float(level)) for level in np.quantile(one, _LEVELS)),
            f"{float(reaches(one, threshold).mean()):.1%}",
        ]
        for recipe, one in found.items()
    ]
