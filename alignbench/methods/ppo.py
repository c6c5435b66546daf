"""Proximal policy optimisation against a reward, with a KL penalty to the policy before training.

Papers: Schulman et al. 2017 (arXiv:1707.06347); for language models Ziegler et al. 2019 (arXiv:1909.08593).

Objective: maximise E[r(x, y)] - kl_coef * KL(pi(y | x) || ref(y | x)), by the clipped surrogate loss.

Differences from the papers, each an option (docs/ppo.md): the value head sits on the policy's last hidden state;
advantages are whitened over the whole batch of a PPO step rather than over each mini-batch; AdamW with a constant
learning rate; completions end at the end-of-sequence token or at a token limit drawn for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy_run import FACTS, prepare, spend

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel


@dataclass(frozen=True)
class PPO(PPOConfig):
    """PPO with a fixed or adaptive KL penalty; the reference is the policy before training."""

    facts: ClassVar[Facts] = FACTS

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Spends the budget in steps of `batch_size` completions."""
        from alignbench.methods.on_policy.trainer import PPOTrainer

        n_steps = prepare(self, data, run)
        assert run.reward is not None
        trainer = PPOTrainer(
            run.policy, run.reward.score, data.prompts, self, seed=run.seed, demonstrations=data.demonstrations
        )
        return spend(trainer, n_steps, run, "PPO")


plugin = PPO
