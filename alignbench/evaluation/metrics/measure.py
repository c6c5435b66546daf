"""From what was drawn to metrics: the one way that every metric goes. Each one is defined in docs/metrics.md.

n prompts, k completions of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from alignbench.errors import AlignbenchError
from alignbench.evaluation.metrics.aggregate import (
    NO_REPLICATES,
    FloatArray,
    SetStatistic,
    counts,
    pooled_mean,
    prompt_means,
)
from alignbench.evaluation.metrics.metric import Metric, Sample
from alignbench.records import MetricKey, MetricValue
from alignbench.statistics.estimate import Estimate
from alignbench.statistics.jackknife import N_JACKKNIFE_GROUPS, jackknife_interval
from alignbench.statistics.prompt_means import Groups, column_means
from alignbench.statistics.thresholds import MAX_UNSCORED

_Measured = TypeVar("_Measured")


@dataclass(frozen=True, slots=True)
class Column:
    """A metric that is a mean over prompts."""

    metric: Metric
    key: MetricKey
    values: FloatArray
    """(n,), NaN where the prompt could not be measured."""
    counts: tuple[int, int]
    """Scored and unscored, in completions or in prompts: docs/metrics.md."""
    reason: str = ""
    """Why there is no value, where that is known; else the statistics say it."""
    n_cut: int = 0
    """Completions that the scorer read after a cut prompt."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What one scorer gave the completions of a sample."""

    scores: FloatArray
    """(n, k), NaN where unscored."""
    n_cut: int

    @property
    def withheld(self) -> str:
        """Why the metrics of this scorer are withheld; empty where they are not."""
        n_unscored = int(np.isnan(self.scores).sum())
        if n_unscored <= MAX_UNSCORED * self.scores.size:
            return ""
        return f"{n_unscored} of {self.scores.size} completions unscored, at most {MAX_UNSCORED:.0%} allowed"


def prompt_columns(metrics: Sequence[tuple[Metric, Any]], sample: Sample, scored: Mapping[str, Scored]) -> list[Column]:
    """Returns every metric that is a mean over prompts, scorer by scorer and then those without.

    Args:
        metrics: Each with what it is measured on.
        sample: What metrics of scorers are measured on.
        scored: By scorer.
    """
    return _each([(metric, on) for metric, on in metrics if metric.of_prompts is not None], sample, scored, column)


def _each(
    metrics: Sequence[tuple[Metric, Any]],
    sample: Sample,
    scored: Mapping[str, Scored],
    measure: Callable[..., _Measured],
) -> list[_Measured]:
    """Measures those of scorers, scorer by scorer, and then those without."""
    of_scorers = [
        measure(metric, replace(sample, scores=of.scores), scorer, of)
        for scorer, of in scored.items()
        for metric, _ in metrics
        if metric.takes_scorer
    ]
    return of_scorers + [measure(metric, on) for metric, on in metrics if not metric.takes_scorer]


def column(metric: Metric, on: Any, scorer: str | None = None, scored: Scored | None = None) -> Column:
    """Measures a mean over prompts; all NaN where its scorer left too much unscored.

    AlignbenchError where what it gives does not fit the sample.
    """
    assert metric.of_prompts is not None
    measured = np.asarray(metric.of_prompts(on), dtype=np.float64)
    n, k = (len(on.prompts), on.k) if isinstance(on, Sample) else (len(np.atleast_1d(measured)), None)
    if measured.shape != (n,) and (measured.ndim != 2 or measured.shape != (n, k or measured.shape[1])):
        raise AlignbenchError(
            f"metric {metric.name}: got values of shape {measured.shape}, expected ({n},), one for each prompt, or "
            f"({n}, {k or 'k'}), one for each completion"
        )
    asked = counts(measured[: metric.n_prompts])
    values = prompt_means(measured) if measured.ndim == 2 else measured
    withheld = scored.withheld if scored else ""
    if withheld:
        values = np.full_like(values, np.nan)
    n_cut = scored.n_cut if scored else 0
    return Column(metric, MetricKey(metric.name, scorer), values, asked, withheld or metric.missing, n_cut)


def mean_metrics(columns: Sequence[Column], groups: Groups | None = None) -> list[MetricValue]:
    """Values and intervals of the means over prompts, by the number of each prompt's group, (n,)."""
    if not columns:
        return []
    estimates = column_means(np.stack([one.values for one in columns], axis=1), groups)
    metrics = []
    for one, estimate in zip(columns, estimates, strict=True):
        if estimate.value is None and one.reason:
            estimate = replace(estimate, reason=one.reason)
        metrics.append(replace(metric_value(one.metric, one.key.scorer, estimate, one.counts), n_cut=one.n_cut))
    return metrics


def set_metrics(
    metrics: Sequence[tuple[Metric, Any]], sample: Sample, scored: Mapping[str, Scored]
) -> list[MetricValue]:
    """Returns every metric that is no mean over prompts, as `prompt_columns` does those that are."""
    return _each([(metric, on) for metric, on in metrics if metric.of_set is not None], sample, scored, set_metric)


def set_metric(metric: Metric, on: Any, scorer: str | None = None, scored: Scored | None = None) -> MetricValue:
    """Measures a metric of the whole set, with the replicates that its interval comes from.

    A mean over prompts of a probe is one as well: its prompts are not those of the evaluation.
    """
    if metric.of_set is not None:
        statistic = metric.of_set(on)
    else:
        one = column(metric, on)
        statistic = replace(pooled_mean(one.values, on.groups), counts=one.counts)
    if scored and (withheld := scored.withheld):
        statistic = replace(statistic, value=None, replicates=NO_REPLICATES, reason=withheld)
    return replace(_set_value(metric, scorer, statistic, on), n_cut=scored.n_cut if scored else 0)


def _set_value(metric: Metric, scorer: str | None, statistic: SetStatistic, on: Any) -> MetricValue:
    if statistic.value is None or statistic.replicates is None:
        reason = statistic.reason or metric.missing or "nothing could be measured"
        estimate, sizes = Estimate(statistic.value, reason=reason), None
    if statistic.replicates is not None:
        groups = on.groups if statistic.groups is None else statistic.groups
        sizes = np.bincount(groups, minlength=N_JACKKNIFE_GROUPS).tolist()
        if statistic.value is not None:
            estimate = jackknife_interval(statistic.value, statistic.replicates, sizes)
    measured = metric_value(metric, scorer, estimate, statistic.counts)
    return replace(measured, replicates=statistic.replicates, group_sizes=None if sizes is None else tuple(sizes))


def metric_value(metric: Metric, scorer: str | None, estimate: Estimate, n: tuple[int, int]) -> MetricValue:
    """A metric as reports have it: taken back from its logarithm where it was measured as one.

    `n` is how many were measured and how many were not.
    """
    if metric.scale == "log":
        value, low, high = map(_exp, (estimate.value, estimate.ci_low, estimate.ci_high))
        estimate = replace(estimate, value=value, ci_low=low, ci_high=high)
    if metric.between_0_and_1:
        estimate = estimate.between_0_and_1()
    interval = estimate.value, estimate.ci_low, estimate.ci_high
    return MetricValue(metric.name, scorer, *interval, metric.direction, *n, reason=estimate.reason)


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)
