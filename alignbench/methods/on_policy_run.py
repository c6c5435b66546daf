"""What all methods on the on-policy engine share: what they are, and a run that spends its budget in steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from alignbench.errors import TrainingError
from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.methods.on_policy.config import GroupConfig, OnPolicyConfig
from alignbench.methods.on_policy.objective import Objective
from alignbench.records import Policy

if TYPE_CHECKING:
    from alignbench.methods.on_policy.trainer import OnPolicyTrainer
    from alignbench.models.language_model import LanguageModel

FACTS = Facts(
    architectures=frozenset({"causal", "seq2seq"}),
    learns_from=frozenset({"prompts"}),
    also_learns_from=lambda method: frozenset({"demonstrations"} if method.ptx_coef else ()),
    calls_reward=True,
    several_processes=True,
    completions_of_a_step=lambda method: method.batch_size,
    longest_completion=lambda method: method.completion_tokens[1],
    texts_in_a_pass=lambda method: 1 if method.gradient_checkpointing else method.rows_at_once,
    cuts_logits=True,
    cautions=lambda method: method.cautions(),
)


def prepare(method: OnPolicyConfig, data: TrainData, run: RunContext) -> int:
    """Attaches the adapter, if there is one, and returns the steps of `batch_size` completions that the budget is.

    Raises:
        TrainingError: The budget is less than a step, or completions are too long for the reward.
    """
    from alignbench.scorers.room import without_room

    n_steps = run.budget_completions // method.batch_size
    if n_steps == 0:
        raise TrainingError(
            f"budget.completions: got {run.budget_completions}, expected at least one batch of {method.batch_size}"
        )
    assert run.reward is not None
    if lacking := without_room(run.reward, run.policy, data.prompts, method.completion_tokens[1]):
        raise TrainingError(f"method.completion_tokens: expected shorter completions: {lacking[0]}")
    if run.lora is not None:
        run.policy.add_adapter(run.lora, seed=run.seed)
    return n_steps


def spend(
    trainer: OnPolicyTrainer, n_steps: int, run: RunContext, title: str, gives: Policy | None = None
) -> LanguageModel:
    """Trains for `n_steps`, going on from a checkpoint where there is one, and tells the run of every step.

    What it is told of is the policy of the run, unless the method `gives` another one.
    """
    from alignbench.runtime.progress import progress_bar

    trainer.resume(run.checkpoints, n_steps)
    run.ledger.restore(trainer.cost.counts())
    with progress_bar(title, n_steps, done=trainer.step) as advance:

        def log(step: int, metrics: Mapping[str, float]) -> None:
            run.step_done(step, step * trainer.config.batch_size, metrics, trainer.step_cost, gives or run.policy)
            advance()

        trainer.train(n_steps, log=log, log_completions=run.log_completions, checkpoints=run.checkpoints)
    return run.policy


@dataclass(frozen=True)
class OnPolicyMethod(GroupConfig, Objective):
    """A method that has no values, and is its own objective."""

    facts: ClassVar[Facts] = FACTS

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Spends the budget in steps of `batch_size` completions."""
        from alignbench.methods.on_policy.trainer import OnPolicyTrainer

        n_steps = prepare(self, data, run)
        assert run.reward is not None
        trainer = OnPolicyTrainer(
            run.policy, run.reward.score, data.prompts, self, self, seed=run.seed, demonstrations=data.demonstrations
        )
        return spend(trainer, n_steps, run, type(self).__name__)
