"""The one evaluator: every policy is drawn from, scored and measured by this code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from alignbench import plugins
from alignbench.errors import DataError
from alignbench.evaluation.metrics.measure import (
    Column,
    Scored,
    mean_metrics,
    prompt_columns,
    set_metric,
    set_metrics,
)
from alignbench.evaluation.metrics.metric import Metric, Sample
from alignbench.evaluation.probes import divergence
from alignbench.evaluation.probes.divergence import EXACT_PROMPTS, Divergence, measure_divergence
from alignbench.evaluation.probes.probe import Probe
from alignbench.evaluation.protocols import EvalProtocol, get_protocol
from alignbench.evaluation.samples import Drawn, concatenate, draw, repeat
from alignbench.records import AnswerCost, EncodesPrompts, EvalReport, MetricKey, Policy, Prompt, Scorer
from alignbench.scorers.text_classifier import remembered_logits
from alignbench.statistics.jackknife import jackknife_group
from alignbench.statistics.prompt_means import numbered

if TYPE_CHECKING:
    import pandas as pd


def evaluate(
    policy: Policy,
    reference: Policy,
    prompts: Sequence[Prompt],
    protocol: EvalProtocol | str,
    scorers: Mapping[str, Scorer],
    *,
    seed: int = 0,
    purpose: str | None = None,
    batch_prompts: int = 8,
    probes: Sequence[Probe] = (),
    groups: Mapping[str, str] = {},
    progress: Callable[[], None] | None = None,
) -> EvalReport:
    """Measures a policy on held-out prompts under a protocol.

    Args:
        policy: The policy.
        reference: The frozen model that perplexity and KL refer to.
        prompts: Held-out prompts.
        protocol: The protocol, or its name.
        scorers: Toxicity scorers by the name that tables show; each gives a number between 0 and 1, or None.
        seed: Seed of the run. Every draw depends on it, the prompt's id, the sample and the position, nothing else.
        purpose: Gives the draws of an evaluation for another purpose a stream of their own.
        batch_prompts: Prompts at a time; times k completions are drawn at once.
        probes: What is measured besides, on prompts of its own.
        groups: By prompt id, the group of those that are variants of one text and count as one witness.
        progress: Called once for every prompt that is done.

    Raises:
        DataError: There are no prompts, or an id occurs twice.
        ModelError: The policy's or the reference's answer does not fit what was asked.
        ScorerError: A scorer gives a number that is not finite or no probability.
    """
    protocol = get_protocol(protocol) if isinstance(protocol, str) else protocol
    _check_prompts(prompts)
    cut = protocol.cut(prompts)
    with remembered_logits():
        drawn = _draw_all(policy, reference, cut, protocol, scorers, seed, purpose, batch_prompts, progress)
    kl = _diverge(policy, reference, cut, seed, purpose, batch_prompts * protocol.samples_per_prompt)
    sample, scored = _sample(drawn, cut, protocol)
    on = _measured_on(sample, replace(kl, groups=sample.groups))
    columns = prompt_columns(on, sample, scored)
    metrics = mean_metrics(columns, numbered([prompt.id for prompt in cut], groups))
    metrics += set_metrics(on, sample, scored)
    for probe in probes:
        measured = probe.measure(policy, reference, scorers, seed=seed, batch_prompts=batch_prompts)
        metrics += [set_metric(metric, measured) for metric in probe.metrics]
    frames = _prompt_frame(columns, cut), _completion_frame(drawn, cut), _divergence_frame(kl, cut, reference)
    return EvalReport(protocol.name, tuple(metrics), *frames, groups, _answer_cost(drawn))


def _draw_all(
    policy: Policy,
    reference: Policy,
    prompts: Sequence[Prompt],
    protocol: EvalProtocol,
    scorers: Mapping[str, Scorer],
    seed: int,
    purpose: str | None,
    batch_prompts: int,
    progress: Callable[[], None] | None,
) -> Drawn:
    """Completions of all prompts in their order, and what was asked about them."""
    parts: list[Drawn] = []
    order = _batches(prompts, batch_prompts)
    for places in order:
        parts.append(draw(policy, reference, [prompts[i] for i in places], protocol, scorers, seed, purpose))
        if progress is not None:
            for _ in places:
                progress()
    return concatenate(parts, list(chain.from_iterable(order)))


def _diverge(
    policy: Policy, reference: Policy, prompts: Sequence[Prompt], seed: int, purpose: str | None, batch_size: int
) -> Divergence:
    """What KL is measured on, of all prompts in their order: one completion each, `batch_size` at once."""
    order = _batches(prompts, batch_size)
    parts = [
        measure_divergence(
            policy, reference, [prompts[i] for i in places], seed, sum(i < EXACT_PROMPTS for i in places), purpose
        )
        for places in order
    ]
    return divergence.concatenate(parts, list(chain.from_iterable(order)))


def _batches(prompts: Sequence[Prompt], size: int) -> list[list[int]]:
    """The places of prompts in batches: those of about the same length go together, the longest first.

    So there is little padding, and a batch that does not fit in memory fails at once.
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].text))
    return [sorted(order[start : start + size]) for start in range(0, len(order), size)]


def _answer_cost(drawn: Drawn) -> AnswerCost | None:
    """What an answer has cost; None, not 0, where the policy does not count what it spends."""
    spent, n = drawn.spent, len(drawn.completions)
    flops = spent.generation_flops + spent.forward_flops + spent.backward_flops
    if not flops or spent.generated_tokens < sum(completion.n_tokens for completion in drawn.completions):
        return None
    return AnswerCost(spent.generated_tokens / n, flops / n, spent.reward_calls / n)


def _check_prompts(prompts: Sequence[Prompt]) -> None:
    if not prompts:
        raise DataError("there are no held-out prompts to evaluate on")
    twice = [prompt_id for prompt_id, n in Counter(prompt.id for prompt in prompts).items() if n > 1]
    if twice:
        raise DataError(f"held-out prompts: the id {twice[0]!r} occurs more than once; ids must be unique")


def _sample(drawn: Drawn, prompts: Sequence[Prompt], protocol: EvalProtocol) -> tuple[Sample, dict[str, Scored]]:
    """Returns what metrics are measured on, and what each scorer gave."""
    n = len(prompts)
    groups = np.array([jackknife_group(prompt.group or prompt.id) for prompt in prompts], dtype=np.int64)
    sample = Sample(prompts, drawn.completions, protocol, groups, drawn.log_perplexity.reshape(n, -1))
    return sample, {name: Scored(flat.reshape(n, -1), drawn.n_cut[name]) for name, flat in drawn.toxicity.items()}


def _measured_on(sample: Sample, kl: Divergence) -> list[tuple[Metric, Any]]:
    """Returns the metrics of the protocol, in their order, each with what it is measured on."""
    own = [(metric, kl) for metric in divergence.metrics_on(kl)]
    rest = [(metric, sample) for metric in plugins.metrics(plugins.METRICS).values() if metric.needs != "rewards"]
    return sorted((one for one in (*rest, *own) if one[0].applies(sample.protocol)), key=lambda one: one[0].order)


def _prompt_frame(columns: Sequence[Column], prompts: Sequence[Prompt]) -> pd.DataFrame:
    import pandas as pd

    index = pd.Index([prompt.id for prompt in prompts], name="prompt_id")
    return pd.DataFrame({str(column.key): column.values for column in columns}, index=index)


def _completion_frame(drawn: Drawn, prompts: Sequence[Prompt]) -> pd.DataFrame:
    import pandas as pd

    completions = drawn.completions
    owners = repeat(prompts, len(completions) // len(prompts))
    return pd.DataFrame(
        {
            "prompt_id": [prompt.id for prompt in owners],
            "prompt": [prompt.text for prompt in owners],
            "sample": [completion.sample for completion in completions],
            "completion": [completion.text for completion in completions],
            "n_tokens": [completion.n_tokens for completion in completions],
            "finish_reason": [completion.finish_reason for completion in completions],
            **{str(MetricKey("toxicity", scorer)): scores for scorer, scores in drawn.toxicity.items()},
            "logprob": drawn.logprob,
            "reference_logprob": drawn.reference_logprob,
            "token_ids": _token_ids(completion.token_ids for completion in completions),
        }
    )


def _divergence_frame(divergence: Divergence, prompts: Sequence[Prompt], reference: Policy) -> pd.DataFrame:
    import pandas as pd

    encode = reference.encode_prompt if isinstance(reference, EncodesPrompts) else None
    return pd.DataFrame(
        {
            "prompt_id": [prompt.id for prompt in prompts],
            "prompt_token_ids": _token_ids(encode(prompt) if encode else None for prompt in prompts),
            "completion": [completion.text for completion in divergence.completions],
            "token_ids": _token_ids(completion.token_ids for completion in divergence.completions),
            "finish_reason": [completion.finish_reason for completion in divergence.completions],
        }
    )


def _token_ids(rows: Iterable[Sequence[int] | None]) -> pd.Series:
    """A column with an array of token ids in each row."""
    import pandas as pd

    return pd.Series([None if row is None else np.array(row, dtype=np.int32) for row in rows], dtype=object)
