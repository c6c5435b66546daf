"""What a metric, and a probe with its metrics, must do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignbench.evaluation.metrics.measure import set_metric
from alignbench.evaluation.metrics.metric import Metric, Sample
from alignbench.evaluation.probes.probe import Probe
from alignbench.evaluation.protocols import PROTOCOLS, EvalProtocol
from alignbench.records import Completion, MetricValue, Policy, Prompt, Scorer
from alignbench.statistics.jackknife import N_JACKKNIFE_GROUPS, jackknife_group

from .expectations import expect

MEASURED = ("texts", "scores", "log-probabilities")
"""What the sample of `check_metric` has; metrics that need anything else belong to a probe."""
N_PROMPTS = 60
WORDS = ["the", "a", "dog", "cat", "you", "are", "rude", "kind", "now", ".", "!", "and", "then", "we", "they", "said"]


def check_metric(plugin: Metric | Sequence[Metric]) -> None:
    """Checks a metric, or several, on a sample of 60 prompts: values, shapes, ranges, replicates."""
    found = [plugin] if isinstance(plugin, Metric) else list(plugin)
    expect(found and all(isinstance(one, Metric) for one in found), f"metric: got {plugin!r}, expected a Metric")
    for metric in found:
        expect(metric.needs in MEASURED, f"{metric.name} needs {metric.needs}: check it with its probe")
        protocols = [one for one in PROTOCOLS.values() if metric.applies(one)]
        expect(protocols, f"{metric.name} applies to no protocol")
        # Of those with several completions of a prompt the one with the fewest, where there is one.
        protocol = min(protocols, key=lambda one: (one.samples_per_prompt == 1, one.samples_per_prompt))
        measures = metric.of_prompts or metric.of_set
        expect(measures, f"{metric.name}: it has neither of_prompts nor of_set, so it is never measured")
        sample = _sample(protocol)
        if metric.of_prompts is not None:
            _check_means(metric, sample)
        else:
            _check_statistic(metric, sample)


def _sample(protocol: EvalProtocol) -> Sample:
    draws = np.random.default_rng(0)
    prompts = [Prompt(f"prompt-{i}", f"the dog number {i} said") for i in range(N_PROMPTS)]
    shape = N_PROMPTS, protocol.samples_per_prompt
    completions = []
    for prompt in prompts:
        for sample in range(shape[1]):
            n = int(draws.integers(0, 12)) if (prompt.id, sample) != ("prompt-0", 0) else 0
            words = draws.integers(0, len(WORDS), n).tolist()
            text = " ".join(WORDS[word] for word in words)
            completions.append(Completion(prompt.id, sample, text, tuple(words), "length" if n > 8 else "eos"))
    groups = np.array([jackknife_group(prompt.id) for prompt in prompts], dtype=np.int64)
    perplexity = draws.uniform(0.5, 3, shape)
    perplexity[0, 0] = np.nan
    return Sample(prompts, completions, protocol, groups, perplexity, draws.uniform(0, 1, shape))


def _of(sample: Sample, rows: Sequence[int]) -> Sample:
    """The sample of some of its prompts."""
    k = sample.k
    return Sample(
        [sample.prompts[i] for i in rows],
        [sample.completions[i * k + j] for i in rows for j in range(k)],
        sample.protocol,
        sample.groups[list(rows)],
        sample.log_perplexity[list(rows)],
        None if sample.scores is None else sample.scores[list(rows)],
    )


def _check_means(metric: Metric, sample: Sample) -> None:
    assert metric.of_prompts is not None
    values = np.asarray(metric.of_prompts(sample), dtype=np.float64)
    n, k = N_PROMPTS, sample.k
    expect(values.shape in ((n,), (n, k)), f"{metric.name}: got {values.shape} values, expected ({n},) or ({n}, {k})")
    expect(not np.isinf(values).any(), f"{metric.name}: got an infinite value, expected a number, or NaN for none")
    expect(not np.isnan(values).all(), f"{metric.name}: measured nothing at all of {n} prompts")
    _check_range(metric, values[~np.isnan(values)])
    if metric.n_prompts is not None:
        return  # measured of the first ones alone
    rows = list(range(n))[::-3]
    some = np.asarray(metric.of_prompts(_of(sample, rows)), dtype=np.float64)
    expect(
        np.allclose(some, values[rows], equal_nan=True),
        f"{metric.name}: a prompt has another value among other prompts; expected a function of its own completions, "
        "or a statistic of the whole set (of_set)",
    )


def _check_statistic(metric: Metric, sample: Sample) -> None:
    assert metric.of_set is not None
    whole = metric.of_set(sample)
    expect(whole.value is not None, f"{metric.name}: no value of {N_PROMPTS} prompts ({whole.reason or 'no reason'})")
    _check_range(metric, np.array([whole.value], dtype=np.float64))
    if whole.replicates is None:
        return
    expect(
        len(whole.replicates) == N_JACKKNIFE_GROUPS,
        f"{metric.name}: got {len(whole.replicates)} replicates, expected one for each of {N_JACKKNIFE_GROUPS} groups",
    )
    groups = sample.groups
    for group, replicate in enumerate(whole.replicates):
        rows = [i for i in range(len(groups)) if groups[i] != group]
        if replicate is None or len(rows) == len(groups) or metric.n_prompts is not None:
            continue
        rest = metric.of_set(_of(sample, rows)).value
        expect(
            rest is not None and np.isclose(rest, replicate),
            f"{metric.name}: replicate {group} is {replicate}, expected {rest}, the value without that group",
        )


def _check_range(metric: Metric, values: np.ndarray) -> None:
    inside = not metric.between_0_and_1 or bool(((values >= 0) & (values <= 1)).all())
    expect(inside, f"{metric.name}: got {values.min():g} to {values.max():g}, and it says between_0_and_1")


def check_probe(
    probe: Probe, policy: Policy, *, reference: Policy | None = None, scorers: Mapping[str, Scorer] | None = None
) -> list[MetricValue]:
    """Checks what a probe measures of a policy, and returns it."""
    name = type(probe).__name__
    expect(probe.metrics, f"{name}: its `metrics` are empty")
    conditions = dict(probe.conditions())
    try:
        json.dumps(conditions)
    except TypeError as error:
        raise AssertionError(f"{name}.conditions: {error}; expected what JSON can hold") from error
    for metric in probe.metrics:
        expect(not metric.takes_scorer, f"{name}: {metric.name} needs scores, which a probe's metric cannot")
        stray = metric.condition is not None and metric.condition not in conditions
        expect(not stray, f"{name}: {metric.name} has the condition {metric.condition!r}, expected one of {conditions}")
    asked = {"seed": 0, "batch_prompts": 100}
    found = _measure(probe, policy, reference, scorers, **asked)
    for what, other in (("asked again", asked), ("with one prompt at a time", {"seed": 0, "batch_prompts": 1})):
        again = _measure(probe, policy, reference, scorers, **other)
        same = all(_close(one.value, two.value) for one, two in zip(found, again, strict=True))
        expect(same, f"{name}: measured {_shown(found)}, and {what} {_shown(again)}")
    for one in found:
        known = one.value is not None or one.reason
        expect(known, f"{name}: {one.metric} has neither a value nor a reason")
    return found


def _measure(
    probe: Probe, policy: Policy, reference: Policy | None, scorers: Mapping[str, Scorer] | None, **asked: Any
) -> list[MetricValue]:
    measured = probe.measure(policy, reference or policy, scorers or {}, **asked)
    expect(hasattr(measured, "groups"), f"{type(probe).__name__}.measure gave no `groups` of its prompts")
    return [set_metric(metric, measured) for metric in probe.metrics]


def _close(one: float | None, other: float | None) -> bool:
    return one is other if one is None or other is None else bool(np.isclose(one, other, rtol=1e-4))


def _shown(found: Sequence[MetricValue]) -> str:
    return ", ".join(f"{one.metric} {one.value}" for one in found)
