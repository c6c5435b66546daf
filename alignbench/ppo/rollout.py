"""Rollouts: sampled completions with everything that the update needs, taken before the first gradient step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignbench.errors import TrainingError
from alignbench.generation import SequenceBatch, sampling_support, token_logprobs
from alignbench.ppo.kl import ESTIMATORS, exact_kl
from alignbench.ppo.losses import entropy
from alignbench.records import Completion, Decoding, Prompt

if TYPE_CHECKING:
    from alignbench.ppo.networks import Networks

RewardFunction = Callable[[Sequence[str], Sequence[str]], Sequence[float | None]]
"""Prompts and completions to rewards; None where a completion cannot be scored."""

MAX_UNSCORED = 0.01
"""The largest share of a batch that a reward may leave unscored."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One batch of b completions of up to t tokens, every tensor without gradient."""

    batch: SequenceBatch
    mask: Tensor
    """(b, t), True on the tokens that are trained on: completion tokens of scored completions."""
    rewards: Tensor
    """(b,), as trained on: scaled, cut and penalised; 0 where unscored, which the mask leaves out."""
    logprobs: Tensor
    """Of the sampled tokens under the distribution that was sampled from, (b, t): what ratios are taken of."""
    policy_logprobs: Tensor
    """The same without top-k and top-p, (b, t): what the KL compares with the reference."""
    reference_logprobs: Tensor
    """Of the sampled tokens under the reference without top-k and top-p, (b, t)."""
    kl: Tensor
    """KL to the reference by the configured estimator in nats, (b, t)."""
    exact_kl: Tensor
    """The same by the sum over the vocabulary, (b, t)."""
    values: Tensor
    """(b, t)."""
    entropy: Tensor
    """Of the policy's next-token distributions in nats, (b, t)."""
    support: Tensor | None
    """(b, t, V), True where top-k and top-p left a token; None where neither is set."""
    shared: Tensor | None
    """Output of the shared layers, (b, p + t, h); None where policy and reference share none."""

    def rows(self, index: Tensor) -> Rollout:
        """Returns some of the rows, padded as before."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value[index] for name, value in parts.items() if isinstance(value, Tensor)}
        return replace(self, batch=self.batch.rows(index), **tensors)


def collect_rewards(
    reward: RewardFunction, prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> list[float | None]:
    """Scores completions; stops on rewards that are not finite, or when more than 1 % are missing."""
    given = reward([prompt.text for prompt in prompts], [completion.text for completion in completions])
    try:
        rewards = [None if value is None else _number(value) for value in given]
    except (TypeError, ValueError) as error:
        raise TrainingError(
            f"the reward gave {str(given)[:200]}, expected a sequence with a number or None for each completion"
        ) from error
    if len(rewards) != len(completions):
        raise TrainingError(f"the reward gave {len(rewards)} values for {len(completions)} completions")
    for value, completion in zip(rewards, completions, strict=True):
        if value is not None and not math.isfinite(value):
            raise TrainingError(
                f"the reward is {value} for the completion {completion.text!r} of prompt {completion.prompt_id}"
            )
    n_missing = sum(value is None for value in rewards)
    if n_missing > MAX_UNSCORED * len(rewards):
        raise TrainingError(
            f"the reward left {n_missing} of {len(rewards)} completions unscored; at most 1 % are tolerated, "
            "because training on the rest would be training on a selection"
        )
    return rewards


def _number(value: Any) -> float:
    if isinstance(value, str):  # float() would take it
        raise TypeError("a text")
    return float(value)


def policy_distribution(logits: Tensor, decoding: Decoding, eos_id: int | None) -> Tensor:
    """Logits (b, t, V) in float32 at the sampling temperature, where no end of sequence is allowed before its time.

    Top-k and top-p are left out. What cannot be drawn gets so low a logit that its probability is 0 and products
    with it are finite.
    """
    scaled = logits.float() / decoding.temperature
    allowed = sampling_support(scaled, replace(decoding, temperature=1.0, top_k=0, top_p=1.0), eos_id)
    return scaled if allowed is None else scaled.masked_fill(~allowed, -1e9)


def truncation(logits: Tensor, decoding: Decoding) -> Tensor | None:
    """What top-k and top-p leave of `policy_distribution`'s logits (b, t, V): True there; None where neither is set."""
    return sampling_support(logits, replace(decoding, temperature=1.0, min_new_tokens=0), None)


@torch.no_grad()
def measure(
    networks: Networks, batch: SequenceBatch, scored: Tensor, rewards: Tensor, decoding: Decoding, eos_id: int | None
) -> Rollout:
    """One full pass each of policy, values and reference over sampled completions, a micro-batch at a time.

    Args:
        networks: What runs.
        batch: The completions.
        scored: True where a completion has a reward, (b,).
        rewards: The rewards to train on, (b,).
        decoding: How the completions were sampled.
        eos_id: The end-of-sequence token.
    """
    config = networks.config
    parts = []
    for rows in torch.split(torch.arange(len(batch), device=rewards.device), config.rows_at_once):
        part = batch.rows(rows)
        shared = networks.shared_activations(part)
        logits, values = networks.policy_and_values(part, shared)
        logits = policy_distribution(logits, decoding, eos_id)
        reference = policy_distribution(networks.reference_logits(part, shared), decoding, eos_id)
        policy_logprobs = token_logprobs(logits, part.completion_ids)
        reference_logprobs = token_logprobs(reference, part.completion_ids)
        exact = exact_kl(logits, reference)
        support = truncation(logits, decoding)
        parts.append(
            Rollout(
                batch=part,
                mask=part.completion_mask & scored[rows].unsqueeze(1),
                rewards=rewards[rows],
                logprobs=policy_logprobs
                if support is None
                else token_logprobs(logits, part.completion_ids, support=support),
                policy_logprobs=policy_logprobs,
                reference_logprobs=reference_logprobs,
                kl=exact
                if config.kl_estimator == "exact"
                else ESTIMATORS[config.kl_estimator](policy_logprobs, reference_logprobs),
                exact_kl=exact,
                values=values,
                entropy=entropy(logits),
                support=support,
                shared=shared,
            )
        )
    return _joined(batch, parts)


def _joined(batch: SequenceBatch, parts: Sequence[Rollout]) -> Rollout:
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Rollout)}
    tensors = {name: torch.cat(column) for name, column in columns.items() if isinstance(column[0], Tensor)}
    return replace(parts[0], batch=batch, **tensors)
