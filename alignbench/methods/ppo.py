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
from typing import TYPE_CHECKING, ClassVar

from alignbench.errors import TrainingError
from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.methods.on_policy.config import PPOConfig

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel


@dataclass(frozen=True)
class PPO(PPOConfig):
    """PPO with a fixed or adaptive KL penalty; the reference is the policy before training."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "seq2seq"}),
        learns_from=frozenset({"prompts"}),
        calls_reward=True,
        several_processes=True,
        longest_completion=lambda ppo: ppo.completion_tokens[1],
        texts_in_a_pass=lambda ppo: 1 if ppo.gradient_checkpointing else ppo.rows_at_once,
        cautions=PPOConfig.cautions,
    )

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
        trainer = PPOTrainer(policy, run.reward.score, data.prompts, self, seed=run.seed)
        trainer.resume(run.checkpoints, n_steps)
        run.ledger.restore(trainer.cost.counts())
        with progress_bar("PPO", n_steps) as advance:

            def log(step: int, metrics: Mapping[str, float]) -> None:
                run.step_done(step, step * self.batch_size, metrics, trainer.step_cost, policy)
                advance()

            trainer.train(n_steps, log=log, log_completions=run.log_completions, checkpoints=run.checkpoints)
        return policy


plugin = PPO
