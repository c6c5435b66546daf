"""Rollouts: sampled completions with everything that the update needs, taken before the first gradient step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from alignbench.errors import TrainingError
from alignbench.generation import SequenceBatch, completion_forward, token_logprobs
from alignbench.ppo.losses import entropy
from alignbench.records import Completion, Prompt

if TYPE_CHECKING:
    from torch import Tensor, nn

RewardFunction = Callable[[Sequence[str], Sequence[str]], Sequence[float | None]]
"""Prompts and completions to rewards; None where a completion cannot be scored."""

MAX_UNSCORED = 0.01
"""The largest share of a batch that a reward may leave unscored."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One batch of b completions of up to t tokens, every tensor without gradient."""

    completions: Sequence[Completion]
    batch: SequenceBatch
    mask: Tensor
    """(b, t), True on the tokens that are trained on: completion tokens of scored completions."""
    rewards: Tensor
    """(b,); 0 where unscored, which the mask leaves out."""
    logprobs: Tensor
    """Of the sampled tokens under the policy, (b, t)."""
    reference_logprobs: Tensor
    """Of the sampled tokens under the reference, (b, t)."""
    values: Tensor
    """(b, t)."""
    entropy: Tensor
    """Of the policy's next-token distributions in nats, (b, t)."""


def collect_rewards(
    reward: RewardFunction, prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> list[float | None]:
    """Scores completions; stops on rewards that are not finite, or when more than 1 % are missing."""
    rewards = list(reward([prompt.text for prompt in prompts], [completion.text for completion in completions]))
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


@torch.no_grad()
def policy_pass(
    model: nn.Module, value_head: nn.Module, batch: SequenceBatch, temperature: float, rows_at_once: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, values and entropies of the sampled tokens, each (b, t) in float32."""
    parts = []
    for start in range(0, len(batch), rows_at_once):
        rows = batch.rows(slice(start, start + rows_at_once))
        logits, hidden = completion_forward(model, rows, hidden=True)
        assert hidden is not None
        logprobs = token_logprobs(logits, rows.completion_ids, temperature)
        parts.append((logprobs, value_head(hidden.float()).squeeze(-1), entropy(logits / temperature)))
    logprobs, values, entropies = (torch.cat(column) for column in zip(*parts, strict=True))
    return logprobs, values, entropies


@torch.no_grad()
def reference_pass(
    model: nn.Module,
    off: Callable[[], AbstractContextManager[None]],
    batch: SequenceBatch,
    temperature: float,
    rows_at_once: int,
) -> Tensor:
    """Log-probabilities of the sampled tokens under the reference, (b, t), within the context `off()`."""
    parts = []
    with off():
        for start in range(0, len(batch), rows_at_once):
            rows = batch.rows(slice(start, start + rows_at_once))
            logits, _ = completion_forward(model, rows)
            parts.append(token_logprobs(logits, rows.completion_ids, temperature))
    return torch.cat(parts)
