"""A trainer that learns from everything it has sampled so far, sorted into quantiles by reward."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from alignbench.methods.on_policy.rollout import Rollout, measure
from alignbench.methods.on_policy.trainer import OnPolicyTrainer
from alignbench.models.forward import collate
from alignbench.records import Completion, Cost, Prompt, total
from alignbench.runtime.randomness import generator

if TYPE_CHECKING:
    from alignbench.models.control_tokens import ControlledModel
    from alignbench.models.forward import SequenceBatch
    from alignbench.models.sampling.capture import Capture


def quantiles(rewards: Sequence[float], n: int) -> list[int]:
    """The quantile of each reward, 0 with the lowest to n - 1: equally many in each, but for one where n divides not.

    Of equal rewards the first come into the lower one.
    """
    order = np.argsort(rewards, kind="stable")
    found = np.empty(len(rewards), dtype=np.int64)
    found[order] = np.arange(len(rewards)) * n // len(rewards)
    return [int(one) for one in found]


def drawn_evenly(groups: Sequence[int], n: int, size: int, draws: np.random.Generator) -> list[int]:
    """`size` places of a pool, as many of each of the n groups as can be; of a group each comes once before any twice.

    Empty groups give none.
    """
    orders = [draws.permutation([i for i, one in enumerate(groups) if one == group]) for group in range(n)]
    orders = [order for order in orders if len(order)]
    return [int(orders[i % len(orders)][i // len(orders) % len(orders[i % len(orders)])]) for i in range(size)]


class PoolTrainer(OnPolicyTrainer):
    """Samples with the control token of the best quantile, and trains on all quantiles behind their tokens.

    In the first step completions are those of the reference, without a token.
    """

    def __init__(self, policy: ControlledModel, *arguments: Any, **options: Any) -> None:
        """As of `OnPolicyTrainer`; there is a quantile for each control token of the policy."""
        self.n_quantiles = len(policy.embedding.controls)
        policy.control = self.n_quantiles - 1  # room is left for it
        super().__init__(policy, *arguments, **options)
        if self.updater.imitation is not None:
            self.updater.imitation.policy = copy.copy(policy)  # behind the best token, in the first step too
        self.controlled = policy
        self.networks.seen_by_reference = policy.without_controls
        self.by_id = {prompt.id: prompt for prompt in self.prompts}

    def sample(self, step: int, capture: Capture | None = None) -> tuple[list[Prompt], list[Completion]]:
        """As of `OnPolicyTrainer`."""
        self.controlled.control = None if step == 1 else self.n_quantiles - 1
        return super().sample(step, capture)

    def choose(self, prompts: Sequence[Prompt], completions: Sequence[Completion], rollout: Rollout) -> Rollout:
        """Puts the step's completions into the pool, and measures as many drawn from it, behind their tokens."""
        pool: list[dict[str, Any]] = self.kept.setdefault("pool", [])
        scored, rewards = rollout.mask.any(dim=1).tolist(), rollout.rewards.tolist()
        pool += [
            {"prompt": prompt.id, "tokens": list(completion.token_ids), "reward": reward}
            for prompt, completion, reward, is_scored in zip(prompts, completions, rewards, scored, strict=True)
            if is_scored
        ]
        of_rows = quantiles([row["reward"] for row in pool], self.n_quantiles)
        draws = generator(self.seed, "pool", self.step)
        places = drawn_evenly(of_rows, self.n_quantiles, self.config.batch_size, draws)
        owners = [self.by_id[pool[i]["prompt"]] for i in places]
        encoded = self.controlled.encode_controlled(owners, [of_rows[i] for i in places])
        batch = collate(
            encoded,
            [pool[i]["tokens"] for i in places],
            self.policy.pad_id,
            self.policy.device,
            for_encoder=self.policy.is_encoder_decoder,
        )
        measured = measure(self.networks, batch, self.decoding, self.policy.eos_ids)
        return measured.rewarded(measured.mask.any(dim=1), torch.tensor([pool[i]["reward"] for i in places]))

    def forward_cost(self, batch: SequenceBatch, chosen: Rollout) -> Cost:
        """That of the completions of the step, and of those that were drawn from the pool."""
        return total((self.passes.rollout(batch), self.passes.rollout(chosen.batch)))
