"""Metrics of stored completions: what needs their texts and the scores of a scorer, and no model that drew them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from alignbench import plugins
from alignbench.errors import UsageError, did_you_mean
from alignbench.evaluation.metrics.measure import Column, Scored, mean_metrics, prompt_columns, set_metrics
from alignbench.evaluation.metrics.metric import Metric, Sample
from alignbench.evaluation.protocols import EvalProtocol
from alignbench.records import Completion, MetricValue, Prompt
from alignbench.statistics.jackknife import jackknife_group
from alignbench.statistics.prompt_means import numbered

if TYPE_CHECKING:
    import pandas as pd


def sample_of(completions: pd.DataFrame, protocol: EvalProtocol, groups: Mapping[str, str]) -> Sample:
    """Returns what metrics are measured on, from the rows of completions.parquet.

    Args:
        completions: The rows, prompt-major.
        protocol: What they were drawn by.
        groups: By prompt id, of the prompts that their data put into one group; none where no column does.
    """
    rows = completions.drop_duplicates("prompt_id")
    prompts = [
        Prompt(one, text, group=groups.get(one)) for one, text in zip(rows["prompt_id"], rows["prompt"], strict=True)
    ]
    names = ("prompt_id", "sample", "completion", "n_tokens", "finish_reason")
    drawn = [
        Completion(prompt_id, sample, text, (0,) * (n_tokens + (finish == "eos")), finish)
        for prompt_id, sample, text, n_tokens, finish in zip(
            *(completions[name].tolist() for name in names), strict=True
        )
    ]
    numbers = np.array([jackknife_group(prompt.group or prompt.id) for prompt in prompts], dtype=np.int64)
    unknown = np.full((len(prompts), len(drawn) // len(prompts)), np.nan)
    return Sample(prompts, drawn, protocol, numbers, unknown)


def measured_of_texts(
    sample: Sample, scored: Mapping[str, Scored], names: Iterable[str], groups: Mapping[str, str]
) -> tuple[list[MetricValue], list[Column]]:
    """Returns the metrics of scorers for each of these, and other metrics by name, with the columns of the means.

    UsageError for a name of none, or of a metric that needs more than texts.
    """
    known = plugins.metrics(plugins.METRICS)
    chosen = [_of_texts(known, name) for name in names]
    of_scorers = [one for one in known.values() if one.takes_scorer and one.applies(sample.protocol)] if scored else []
    ordered = sorted([*of_scorers, *chosen], key=lambda one: one.order)
    on = [(metric, sample) for metric in ordered]
    columns = prompt_columns(on, sample, scored)
    means = mean_metrics(columns, numbered([prompt.id for prompt in sample.prompts], groups))
    return [*means, *set_metrics(on, sample, scored)], columns


def _of_texts(known: Mapping[str, Metric], name: str) -> Metric:
    usable: Sequence[str] = sorted(one for one, metric in known.items() if metric.needs == "texts")
    if name not in known:
        raise UsageError(f"--metric: got {name!r}, expected one of {', '.join(usable)}{did_you_mean(name, usable)}")
    if known[name].needs != "texts":
        raise UsageError(
            f"--metric: got {name!r}, which needs {known[name].needs}, expected one of {', '.join(usable)}"
        )
    return known[name]
