"""The metrics of a rollout, defined in docs/metrics.md, and a sample of it to read."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from alignbench.methods.on_policy.kl import ESTIMATORS
from alignbench.methods.on_policy.rewards import masked_mean
from alignbench.runtime.clock import stage as named

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.methods.on_policy.rollout import Rollout
    from alignbench.records import Completion, Prompt

Metrics = dict[str, float]

N_SAMPLED = 8
"""Completions of a batch that are kept for reading."""


@contextmanager
def timed(seconds: Metrics, stage: str) -> Iterator[None]:
    """Notes the wall seconds of the block under the name of a stage, which it also has in a profile."""
    started = time.perf_counter()
    with named(stage):
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # or the work of this stage is charged to a later one
    seconds[stage] = time.perf_counter() - started


def rollout_metrics(
    rollout: Rollout,
    returns: Tensor | None,
    scores: Sequence[float | None],
    completions: Sequence[Completion],
    kl_coef: float,
) -> Metrics:
    """What a step logs of its rollout, before the update; `scores` are what the reward gave, `returns` (b, t).

    Those of a method without values are None.
    """
    mask, scored = rollout.mask, rollout.mask.any(dim=1)
    given = torch.tensor([score for score in scores if score is not None], dtype=torch.float32)
    shaped = rollout.rewards[scored]
    kl = _per_completion(rollout.kl, mask)
    estimates = {
        f"objective/kl_{name}": _per_completion(estimate(rollout.policy_logprobs, rollout.reference_logprobs), mask)
        for name, estimate in ESTIMATORS.items()
    }
    if rollout.exact_kl is not None:
        estimates["objective/kl_exact"] = _per_completion(rollout.exact_kl, mask)
    return {
        "objective/reward": given.mean().item(),
        "objective/reward_std": given.std(correction=0).item(),
        "objective/shaped_reward": shaped.mean().item(),
        "objective/kl": kl.mean().item(),
        **{key: value.mean().item() for key, value in estimates.items()},
        "objective/penalised_reward": (shaped - kl_coef * kl).mean().item(),
        "objective/entropy": masked_mean(rollout.entropy, mask).item(),
        "objective/kl_coef": kl_coef,
        "objective/n_unscored": float((~scored).sum().item()),
        **_explained(rollout, returns),
        **_lengths(completions),
    }


def _explained(rollout: Rollout, returns: Tensor | None) -> Metrics:
    if returns is None or rollout.values is None:
        return {}
    mean_return = masked_mean(returns, rollout.mask)
    variance = masked_mean((returns - mean_return) ** 2, rollout.mask).item()
    residual = masked_mean((returns - rollout.values) ** 2, rollout.mask).item()
    return {"value/explained_variance": 1 - residual / variance if variance > 0 else 0.0}


def _per_completion(values: Tensor, mask: Tensor) -> Tensor:
    """Sums over the tokens of each scored completion."""
    return (values * mask).sum(dim=1)[mask.any(dim=1)]


def _lengths(completions: Sequence[Completion]) -> Metrics:
    lengths = [len(completion.token_ids) for completion in completions]
    endings = [completion.finish_reason for completion in completions]
    return {
        "tokens/completion_mean": sum(lengths) / len(lengths),
        "tokens/completion_min": float(min(lengths)),
        "tokens/completion_max": float(max(lengths)),
        "tokens/eos_rate": endings.count("eos") / len(endings),
        "tokens/truncation_rate": endings.count("length") / len(endings),
    }


def mean_by_name(parts: Sequence[Mapping[str, float]]) -> Metrics:
    """The mean of what several parts of a batch say, by name, over the parts that say anything."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: statistics.fmean(part[name] for part in parts if name in part) for name in names}


def completion_sample(
    prompts: Sequence[Prompt], completions: Sequence[Completion], scores: Sequence[float | None], rollout: Rollout
) -> list[dict[str, object]]:
    """The first completions of a batch, with reward and KL in nats, one mapping each."""
    kl = (rollout.kl * rollout.batch.completion_mask).sum(dim=1).tolist()
    rows = list(zip(prompts, completions, scores, kl, strict=True))[:N_SAMPLED]
    return [
        {
            "prompt_id": prompt.id,
            "prompt": prompt.text,
            "completion": completion.text,
            "n_tokens": len(completion.token_ids),
            "finish_reason": completion.finish_reason,
            "reward": score,
            "kl": nats,
        }
        for prompt, completion, score, nats in rows
    ]
