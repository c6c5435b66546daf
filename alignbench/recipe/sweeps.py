"""The `sweep:` of a suite: which settings are tried for each recipe, and what decides between them.

Fair means here: as many trials for one method as for another, each from its own grid, and one criterion for all.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from alignbench import plugins
from alignbench.errors import did_you_mean
from alignbench.records import Direction, MetricKey, Settings
from alignbench.scorers.base import Text

Point = Mapping[str, Any]
"""One setting of a grid, value by key: `{"method.beta": 0.1}`."""
TUNING = "tuning"
"""Folder of the results that holds the runs measured on validation prompts: the trials of sweeps."""
_MAX_POINTS = 500
_TUNABLE = ("method", "pairs", "policy.lora")
"""Blocks whose keys a grid may vary: all else must be equal in every trial, or trials could not be compared."""


def _metrics() -> dict[str, Any]:
    """The metrics of policies after training, by name."""
    return {name: metric for name, metric in plugins.metrics().items() if metric.section}


class CriterionSettings(Settings):
    """What decides between the trials of a recipe: the best value of a metric on validation prompts, within limits."""

    metric: Text
    """Name of a metric with a direction, such as toxicity_mean."""
    scorer: Text | None = None
    """Its scorer, one of `evaluation.scorers`; null for a metric without scorer."""
    at_most: dict[str, float] = Field(default_factory=dict)
    """The most that other metrics may be, by `metric` or `metric@scorer`; a trial beyond is not selected."""
    at_least: dict[str, float] = Field(default_factory=dict)
    """The least that they may be."""

    @property
    def key(self) -> MetricKey:
        """Metric and scorer."""
        return MetricKey(self.metric, self.scorer)

    @property
    def direction(self) -> Direction:
        """Which way is better."""
        direction: Direction = _metrics()[self.metric].direction
        return direction

    @property
    def scorers(self) -> set[str]:
        """Names of the scorers that the criterion and its limits read."""
        keys = (self.key, *map(MetricKey.parse, (*self.at_most, *self.at_least)))
        return {key.scorer for key in keys if key.scorer is not None}

    def __str__(self) -> str:
        limits = [f"{column} at most {value:g}" for column, value in self.at_most.items()]
        limits += [f"{column} at least {value:g}" for column, value in self.at_least.items()]
        return f"the {'lowest' if self.direction == 'lower' else 'highest'} {', '.join([str(self.key), *limits])}"

    @field_validator("metric")
    @classmethod
    def _has_a_direction(cls, value: str) -> str:
        useful = [name for name, metric in _metrics().items() if metric.direction != "none"]
        if value not in useful:
            said = "a metric that is better one way: " if value in _metrics() else ""
            raise ValueError(f"{said}one of {', '.join(useful)}{did_you_mean(value, useful)}")
        return value

    @field_validator("at_most", "at_least")
    @classmethod
    def _are_known(cls, value: dict[str, float]) -> dict[str, float]:
        for column in value:
            key = MetricKey.parse(column)
            metric = _metrics().get(key.metric)
            if metric is None:
                raise ValueError(f"{column}: the name of a metric{did_you_mean(key.metric, list(_metrics()))}")
            if metric.takes_scorer != (key.scorer is not None):
                without = f"{key.metric} without a scorer"
                wanted = str(MetricKey(key.metric, "SCORER")) if metric.takes_scorer else without
                raise ValueError(f"{column}: it under the name {wanted}")
        return value

    @model_validator(mode="after")
    def _names_its_scorer(self) -> CriterionSettings:
        takes_scorer = _metrics()[self.metric].takes_scorer
        if takes_scorer and self.scorer is None:
            raise ValueError("scorer: the scorer of this metric, such as judge")
        if not takes_scorer and self.scorer is not None:
            raise ValueError(f"scorer: it left out, {self.metric} has none")
        return self


class SweepSettings(Settings):
    """How the recipes of a suite are tuned."""

    trials: int = Field(ge=2)
    """Settings tried for each recipe, the same number for all."""
    criterion: CriterionSettings
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of every trial. It also decides which points are tried where a grid has more than `trials`."""
    grids: dict[str, dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]] = Field(min_length=1)
    """By recipe, the values of each key; every combination is a point."""

    @field_validator("grids")
    @classmethod
    def _vary_what_is_the_methods_own(
        cls, value: dict[str, dict[str, tuple[Any, ...]]]
    ) -> dict[str, dict[str, tuple[Any, ...]]]:
        for recipe, grid in value.items():
            for key in grid:
                if key == "method.name" or not key.startswith(tuple(f"{block}." for block in _TUNABLE)):
                    raise ValueError(
                        f"{recipe}: keys of {', '.join(_TUNABLE)} alone, written as in --set (method.learning_rate), "
                        f"not {key!r}: everything else is the same in every trial"
                    )
            inside = [key for key in grid for other in grid if key.startswith(f"{other}.")]
            if inside:
                raise ValueError(f"{recipe}: no key within another, not {inside[0]}")
            if math.prod(map(len, grid.values())) > _MAX_POINTS:
                raise ValueError(f"{recipe}: at most {_MAX_POINTS} combinations")
        return value


@dataclass(frozen=True)
class Sweep:
    """The sweep of one recipe."""

    place: str
    """How messages call it: the suite's file and the grid."""
    suite: str
    recipe: str
    settings: SweepSettings

    def __str__(self) -> str:
        trials, criterion = self.settings.trials, self.settings.criterion
        return f"{trials} trials of a grid of {len(self.points)} points, by {criterion}, on validation prompts"

    @property
    def points(self) -> list[Point]:
        """Every point of the recipe's grid."""
        return grid_points(self.settings.grids[self.recipe])

    @property
    def trials(self) -> list[Point]:
        """The points that are tried."""
        return choose(self.points, self.settings.trials, [self.suite, self.recipe, self.settings.seed])


def grid_points(grid: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Returns every combination of a grid's values, the last key varying fastest, each once."""
    points: list[Point] = []
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        if point not in points:
            points.append(point)
    return points


def choose(points: Sequence[Point], n: int, key: Sequence[str | int]) -> list[Point]:
    """Returns n of the points in their order, drawn without replacement; the key is the seed of the draw.

    Those with the smallest hashes of key and point, so that neither the order of a grid nor the version of a random
    number generator decides.
    """

    def draw(position: int) -> str:
        return hashlib.sha256(json.dumps([*key, points[position]], sort_keys=True).encode()).hexdigest()

    return [points[position] for position in sorted(sorted(range(len(points)), key=draw)[:n])]


def nested(point: Point) -> dict[str, Any]:
    """Turns `{"method.beta": 0.1}` into `{"method": {"beta": 0.1}}`."""
    values: dict[str, Any] = {}
    for key, value in point.items():
        *blocks, last = key.split(".")
        inner = values
        for block in blocks:
            inner = inner.setdefault(block, {})
        inner[last] = value
    return values
