"""Recipes at equal divergence or at equal cost: their curves along training, read at one place.

Between two neighbouring points of a curve every prompt's value is taken to go in a straight line. Where the place is an
amount that was counted (completions, FLOPs), the mean over prompts is that of the interpolated values. Where it is a
KL, measured on the same prompts, the weights w are uncertain too: with means y0, y1 and k0, k1 of the two points,

    y(K) = y0 + w (y1 - y0),    w = (K - k0) / (k1 - k0),

has to first order the influence of prompt j  z_j = (1 - w) y0_j + w y1_j - b ((1 - w) k0_j + w k1_j - K),  where
b = (y1 - y0) / (k1 - k0); the mean of z is y(K), and intervals and tests are those of means over prompts, taken of z.
Of a curve that passes a KL several times the first time counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from alignbench.comparison.comparability import find_mismatches, require_comparable
from alignbench.comparison.comparison import Comparison
from alignbench.comparison.pooling import Measurement, PairedRecipes, RecipeRuns
from alignbench.comparison.ranks import Ranking, ranking
from alignbench.comparison.scales import exponential
from alignbench.errors import ResultsError, UsageError, did_you_mean
from alignbench.records import MetricKey
from alignbench.results.layout import EVENTS_FILE
from alignbench.results.parquet import readable
from alignbench.results.reader import StoredPoint, StoredRun
from alignbench.results.schema import UnreadableError
from alignbench.statistics.crossed import over_seeds
from alignbench.statistics.differences import Pair, adjust, compare_pairs
from alignbench.statistics.prompt_means import mean_interval

Axis = Literal["kl", "completions", "flops"]
UNITS: Mapping[Axis, str] = {
    "kl": "nats of KL to the reference",
    "completions": "training completions, upstream included",
    "flops": "training FLOPs, upstream included",
}
_KL = MetricKey("kl")
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Place:
    """Where curves are read."""

    axis: Axis
    value: float

    @classmethod
    def parse(cls, text: str) -> Place:
        """Reads `kl=2.5`; UsageError where it is no such thing."""
        name, _, number = text.partition("=")
        axes = get_args(Axis)
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if name not in axes or not 0 < value < float("inf"):
            expected = f"one of {', '.join(f'{axis}=NUMBER' for axis in axes)}, the number above 0"
            raise UsageError(
                f"--at: got {text!r}, expected {expected}{did_you_mean(name, axes) if name not in axes else ''}"
            )
        return cls(cast(Axis, name), value)

    def __str__(self) -> str:
        return f"{amount(self.value)} {UNITS[self.axis]}"


def amount(value: float) -> str:
    """Returns a KL, a count or FLOPs as people read it."""
    return f"{value:.3g}" if abs(value) < 100 or abs(value) >= 1e7 else f"{value:,.0f}"


@dataclass(frozen=True)
class AtPlace:
    """A table at one place of the curves."""

    place: Place
    key: MetricKey
    n_prompts: int
    measured: Mapping[str, Measurement]
    """Of the recipes whose curves reach the place, in each seed; the baseline as it is."""
    ranking: Ranking
    baseline: str | None
    unreached: Mapping[str, str]
    """Why recipes are not among them."""


def at_place(comparison: Comparison, place: Place) -> AtPlace:
    """Returns the recipes of one table at a place of their curves.

    Raises:
        ResultsError: Fewer than two curves reach the place.
        ComparabilityError: The curves were not measured alike.
    """
    if (key := comparison.key) is None:
        raise ResultsError("--at: there is nothing to compare along training")
    points = [(run, run.points[0]) for one in comparison.runs for run, _ in one.runs if run.points]
    require_comparable(find_mismatches(points))
    ids = list(dict.fromkeys(prompt for _, point in points for prompt in point.prompt_values[0]))
    found: list[tuple[RecipeRuns, Values]] = []
    unreached = {}
    for one in comparison.runs:
        try:
            found.append((one, np.stack([_Curve(run, key, ids).at(place, one.varies) for run, _ in one.runs])))
        except UnreadableError as error:
            unreached[one.recipe] = str(error)
    if sum(one.varies for one, _ in found) < 2:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in unreached.items())
        raise ResultsError(f"--at {place.axis}={place.value:g}: fewer than two curves reach it{reasons}")
    ranked, measured = _ranked(found, key)
    baseline = comparison.baseline if comparison.baseline in measured else None
    return AtPlace(place, key, len(ids), measured, ranked, baseline, unreached)


def _ranked(found: Sequence[tuple[RecipeRuns, Values]], key: MetricKey) -> tuple[Ranking, dict[str, Measurement]]:
    """Tests every recipe against every other, from values (seeds, prompts)."""
    measured = {one.recipe: _measurement(one, key, values) for one, values in found}
    pairs = [(mine, theirs) for place, mine in enumerate(found) for theirs in found[:place]]
    tested = adjust(
        compare_pairs([Pair(values, others, one.varies, other.varies) for (one, values), (other, others) in pairs])
    )
    paired = [
        PairedRecipes(
            one.recipe, other.recipe, key, replace(measured[one.recipe], difference=test.difference, tested=test)
        )
        for ((one, _), (other, _)), test in zip(pairs, tested, strict=True)
    ]
    return ranking(key, measured, paired), measured


def _measurement(one: RecipeRuns, key: MetricKey, values: Values) -> Measurement:
    stored, traits = one.metrics(key)[0], one.traits(key)
    mean = mean_interval(over_seeds(values))
    mean = exponential(mean) if traits.scale == "log" else mean
    mean = mean.between_0_and_1() if traits.between_0_and_1 else mean
    return Measurement(mean, None, stored.direction, mean.n, 0, traits=traits)


class _Curve:
    """One run along training, on prompts in a given order."""

    def __init__(self, run: StoredRun, key: MetricKey, ids: Sequence[str]) -> None:
        if not run.points:
            raise UnreadableError(f"seed {run.status.seed} was not measured along training")
        self._run, self._points = run, run.points
        self._places = {prompt: place for place, prompt in enumerate(ids)}
        self._values = [self._column(point, key) for point in run.points]

    def _column(self, point: StoredPoint, key: MetricKey) -> Values:
        ids, columns = point.prompt_values
        if str(key) not in columns:
            raise UnreadableError(f"{key} was not measured along training, prompt by prompt")
        values = np.full(len(self._places), np.nan)
        values[[self._places[one] for one in ids]] = columns[str(key)]
        return values

    def at(self, place: Place, varies: bool) -> Values:
        """Returns a value per prompt, (prompts,); of a policy that is not trained what it always has."""
        if not varies:
            return self._values[0]
        kl = [self._column(point, _KL) for point in self._points] if place.axis == "kl" else None
        xs = [float(np.nanmean(one)) for one in kl] if kl is not None else self._spent(place.axis)
        i = _segment(xs, place.value)
        if i is None:
            raise UnreadableError(
                f"seed {self._run.status.seed} goes from {amount(min(xs))} to {amount(max(xs))} {UNITS[place.axis]}"
            )
        w = (place.value - xs[i]) / (xs[i + 1] - xs[i])
        before, after = self._values[i], self._values[i + 1]
        values: Values = (1 - w) * before + w * after
        if kl is not None:
            steepness = float(np.nanmean(after) - np.nanmean(before)) / (xs[i + 1] - xs[i])
            values = values - steepness * ((1 - w) * kl[i] + w * kl[i + 1] - place.value)
        return values

    def _spent(self, axis: Axis) -> list[float]:
        """Returns what was spent at each point, with what the run was charged before its first step."""
        charged = self._run.charged_cost
        if axis == "completions":
            counted: list[float] = [point.completions for point in self._points]
            return [one + charged.training_completions - counted[-1] for one in counted]
        steps = _flops_by_step(self._run)
        before = _flops(asdict(charged)) - sum(steps.values())
        return [before + sum(n for step, n in steps.items() if step <= point.step) for point in self._points]


def _segment(xs: Sequence[float], value: float) -> int | None:
    """Returns the first point after which a curve passes a value; None where it never does."""
    return next((i for i, (a, b) in enumerate(pairwise(xs)) if a != b and min(a, b) <= value <= max(a, b)), None)


def _flops_by_step(run: StoredRun) -> dict[int, float]:
    """Returns the FLOPs of each training step."""
    path = run.path / EVENTS_FILE
    if not path.exists():
        raise UnreadableError(f"seed {run.status.seed} has no {EVENTS_FILE}: what each step took is not known")
    steps: dict[int, float] = {}
    with readable(path):
        for line in path.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if event["account"] == "cost" and event["step"] is not None:
                steps[event["step"]] = steps.get(event["step"], 0.0) + _flops(event)
    return steps


def _flops(amounts: Mapping[str, float]) -> float:
    return sum(float(amounts.get(name, 0.0)) for name in ("generation_flops", "forward_flops", "backward_flops"))
