"""What the course "Generative AI with Large Language Models" shows of its third lab: before, after, and percent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from alignbench.comparison.numbers import number
from alignbench.comparison.rows import ComparedRecipe
from alignbench.records import MetricKey

PROTOCOL = "lab3-v1"
TITLE = "Before and after training, as in the course"
HEADER = (
    *("recipe", "scorer", "mean before", "mean after", "improvement of the mean"),
    *("standard deviation before", "standard deviation after", "improvement of the standard deviation"),
)
LEGEND = (
    "Improvement: (before - after) / before. It says nothing about chance; the verdicts do. A smaller standard "
    "deviation is no improvement by itself: scores of harmless texts are close to each other."
)


def improvement(before: float | None, after: float | None) -> float | None:
    """Returns by how many percent a number has fallen; None where it was 0, or one of the two is not known."""
    return None if before is None or after is None or before == 0 else 100 * (before - after) / before


def rows_of(recipes: Sequence[ComparedRecipe]) -> Iterator[list[str]]:
    """Yields a row for each recipe after the first, which is the baseline, and each scorer."""
    if not recipes:
        return
    baseline, *others = recipes
    scorers = dict.fromkeys(key.scorer for key in baseline.metrics if key.metric == "toxicity_mean")
    for row in others:
        for scorer in scorers:
            cells = []
            for metric in ("toxicity_mean", "toxicity_std"):
                before, after = (_value(one, MetricKey(metric, scorer)) for one in (baseline, row))
                fallen = improvement(before, after)
                cells += [number(before), number(after), "-" if fallen is None else f"{fallen:+.2f} %"]
            yield [row.recipe, scorer or "-", *cells]


def _value(row: ComparedRecipe, key: MetricKey) -> float | None:
    measured = row.metrics.get(key)
    return None if measured is None else measured.value.value
