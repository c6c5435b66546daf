"""Proximal policy optimisation against a reward, with a KL penalty to the policy before training.

Papers: Schulman et al. 2017 (arXiv:1707.06347); for language models Ziegler et al. 2019 (arXiv:1909.08593).

Objective: maximise E[r(x, y)] - kl_coef * KL(pi(y | x) || ref(y | x)), by the clipped surrogate loss.

Differences from the papers, each an option (docs/ppo.md): the value head sits on the policy's last hidden state;
advantages are whitened over the whole batch of a PPO step rather than over each mini-batch; AdamW with a constant
learning rate; completions end at the end-of-sequence token or at a token limit drawn for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from alignbench.errors import TrainingError
from alignbench.methods.base import Architecture, DataKind, RunContext, TrainData
from alignbench.methods.on_policy.config import PPOConfig

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel


@dataclass(frozen=True)
class PPO(PPOConfig):
    """PPO with a fixed or adaptive KL penalty; the reference is the policy before training."""

    needs: ClassVar[frozenset[DataKind]] = frozenset({"prompts"})
    needs_reward: ClassVar[bool] = True
    architectures: ClassVar[frozenset[Architecture]] = frozenset({"causal", "seq2seq"})
    produces: ClassVar[Literal["policy"]] = "policy"
    takes_several_processes: ClassVar[bool] = True

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Spends the budget in steps of `batch_size` completions."""
        from alignbench.methods.on_policy.trainer import PPOTrainer
        from alignbench.runtime.progress import progress_bar
        from alignbench.scorers.room import without_room

        n_steps = run.budget_completions // self.batch_size
        if n_steps == 0:
            raise TrainingError(
                f"budget.completions: got {run.budget_completions}, expected at least one batch of {self.batch_size}"
            )
        assert run.reward is not None
        policy = run.policy
        if lacking := without_room(run.reward, policy, data.prompts, self.completion_tokens[1]):
            raise TrainingError(f"method.completion_tokens: expected shorter completions: {lacking[0]}")
        if run.lora is not None:
            policy.add_adapter(run.lora, seed=run.seed)
        trainer = PPOTrainer(policy, run.reward.score, data.prompts, self, seed=run.seed, ledger=run.ledger)
        with progress_bar("PPO", n_steps) as advance:

            def log(step: int, metrics: Mapping[str, float]) -> None:
                run.log(step, metrics)
                run.evaluate_at(step, step * self.batch_size, policy)
                advance()

            trainer.train(n_steps, log=log, log_completions=run.log_completions, checkpoints=run.checkpoints)
        run.evaluate_at(n_steps, n_steps * self.batch_size, policy)  # a resumed run may have had no step left
        return policy


plugin = PPO
