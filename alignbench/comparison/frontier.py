"""Which rows are dominated: another is at least as good in everything that was named, and better in something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from alignbench.comparison.comparison import Comparison
from alignbench.comparison.cost_columns import COSTS, PER_ANSWER
from alignbench.comparison.flags import judgement
from alignbench.comparison.pooling import PairedRecipes, measure_pairs, trained_for
from alignbench.comparison.ranks import named_metric
from alignbench.comparison.rows import ComparedRecipe
from alignbench.errors import ResultsError, UsageError, did_you_mean
from alignbench.records import MetricKey
from alignbench.statistics.estimate import Estimate
from alignbench.statistics.multiplicity import holm

Named = MetricKey | str
"""A metric, or the name of a cost."""


@dataclass(frozen=True, slots=True)
class OnFrontier:
    """A row and what dominates it."""

    recipe: str
    values: tuple[Estimate, ...]
    """Of what was named, in its order; costs have no interval."""
    shown: tuple[str, ...]
    """Rows that are shown to be better in every metric that was named, and are no dearer in every cost."""
    measured: tuple[str, ...]
    """Rows that measure at least as good in everything and better in something, those of `shown` left out."""


def frontier(comparison: Comparison, names: Sequence[str]) -> tuple[list[Named], list[OnFrontier]]:
    """Returns what was named and every row, the best in the first of it first.

    Tests are those of all pairs on all metrics that were named, one family (Holm). A KL counts as a cost that was
    measured: less is better.

    Raises:
        UsageError: A name that is not known or that has no better side, or fewer than two.
        ResultsError: A row has no value.
    """
    wanted = [_named(comparison, name) for name in names]
    if len(set(wanted)) < 2:
        raise UsageError("--frontier: expected two metrics or costs or more, such as toxicity_mean@judge,kl")
    signs = [_sign(comparison, one) for one in wanted]
    values = {row.recipe: tuple(_value(row, one) for one in wanted) for row in comparison.recipes}
    known = {
        name: [sign * one.value for sign, one in zip(signs, found, strict=True) if one.value is not None]
        for name, found in values.items()
    }
    lacking = [name for name, found in known.items() if len(found) < len(wanted)]
    if lacking:
        raise ResultsError(f"--frontier: {', '.join(lacking)} was not measured in all of {', '.join(names)}")
    better = _shown(comparison, wanted, signs)
    rows = []
    for name in sorted(known, key=lambda name: known[name]):
        dominating = [other for other in known if _dominates(known[other], known[name])]
        shown = tuple(other for other in dominating if (other, name) in better)
        rows.append(OnFrontier(name, values[name], shown, tuple(one for one in dominating if one not in shown)))
    return wanted, rows


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def _named(comparison: Comparison, name: str) -> Named:
    if name in COSTS or name in PER_ANSWER:
        return name
    keys = list(dict.fromkeys(key for row in comparison.recipes for key in row.metrics))
    costs = [*COSTS, *PER_ANSWER]
    if not any(name in (str(key), key.metric) for key in keys):
        known = [*map(str, keys), *costs]
        raise UsageError(
            f"--frontier: got {name!r}, expected one of what was measured or a cost{did_you_mean(name, known)} "
            f"({', '.join(known)})"
        )
    return named_metric(keys, name, "--frontier")


def _sign(comparison: Comparison, one: Named) -> int:
    """Returns 1 where less is better, -1 where more is; UsageError where neither is."""
    if isinstance(one, str):
        return 1
    direction = next(row.metrics[one].direction for row in comparison.recipes if one in row.metrics)
    if direction == "none" and not one.metric.startswith("kl"):
        raise UsageError(f"--frontier: {one} has no better side")
    return -1 if direction == "higher" else 1


def _value(row: ComparedRecipe, one: Named) -> Estimate:
    if isinstance(one, str):
        amount = row.cost.get(one)
        return Estimate(row.cost_per_answer.get(one) if amount is None else trained_for(row.method, amount))
    return row.metrics[one].value if one in row.metrics else Estimate(None)


def _shown(comparison: Comparison, wanted: Sequence[Named], signs: Sequence[int]) -> set[tuple[str, str]]:
    """Returns pairs of rows of which the first is shown to be better than the second in every metric."""
    keys: Mapping[MetricKey, int] = {
        one: sign for one, sign in zip(wanted, signs, strict=True) if isinstance(one, MetricKey)
    }
    measured = {(row.recipe, key): one for row in comparison.recipes for key, one in row.metrics.items()}
    pairs = measure_pairs(comparison.runs, measured, keys)
    adjusted = holm([_p(pair) for pair in pairs])
    found: dict[tuple[str, str], set[MetricKey]] = {}
    for pair, p in zip(pairs, adjusted, strict=True):
        difference = pair.measurement.difference
        if difference is None or difference.value is None:
            continue
        one = replace(pair.measurement, difference=replace(difference, p_adjusted=p))
        if judgement(one) in ("better", "worse", "different"):
            is_first = keys[pair.key] * difference.value < 0
            place = (pair.recipe, pair.other) if is_first else (pair.other, pair.recipe)
            found.setdefault(place, set()).add(pair.key)
    return {place for place, better in found.items() if len(better) == len(keys)}


def _p(pair: PairedRecipes) -> float | None:
    return None if pair.measurement.difference is None else pair.measurement.difference.p_value
