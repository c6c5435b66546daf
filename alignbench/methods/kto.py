"""Kahneman-Tversky optimisation: completions that are wanted or unwanted, each by itself.

Paper: Ethayarajh et al. 2024 (arXiv:2402.01306). Trainer: `trl.KTOTrainer`.

Objective: minimise wanted_weight (1 - sigmoid(beta (log pi(y|x)/ref(y|x) - z))) of a wanted completion, unwanted_weight
(1 - sigmoid(beta (z - log pi(y|x)/ref(y|x)))) of an unwanted one. z estimates KL(pi || ref), from the prompts of a pass
with each other's completions; it is no less than 0, and takes no gradient.

Differences from the paper: a completion is wanted where the recipe's reward is at least
`labelled_completions.wanted_from`, not where a person says so. Every batch has both kinds, in their shares of the data
or one at least: by chance many have one kind alone where the other is rare, and then nothing holds the policy there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from alignbench.errors import TrainingError
from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.methods.trl.mixed_batches import mixed_batches, wanted_in_a_batch
from alignbench.methods.trl.settings import TrainerSettings

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.records import LabelledCompletion

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KTO(TrainerSettings):
    """KTO; the reference is the policy before training. Batches and epochs count completions, not pairs."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull to the reference."""
    wanted_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of a wanted completion. The paper has it times the number of wanted ones at 1 to 4/3 of the same of
    unwanted ones; which labels are given is said under `labelled_completions`."""
    unwanted_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of an unwanted completion."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal"}),
        learns_from=frozenset({"labelled_completions"}),
        texts_in_a_pass=lambda kto: kto.rows_at_once,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows_at_once < 2:
            raise ValueError("2 or more completions in a pass: z needs a prompt with the completion of another one")

    def objective(self) -> dict[str, Any]:
        """The settings of TRL's trainer that make the loss."""
        weights = {"desirable_weight": self.wanted_weight, "undesirable_weight": self.unwanted_weight}
        return {"loss_type": "kto", "beta": self.beta, **weights}

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Trains on all labelled completions, as they were sampled."""
        from trl import KTOConfig, KTOTrainer

        from alignbench.methods.trl.arguments import trainer_arguments
        from alignbench.methods.trl.checkpoints import training_identity
        from alignbench.methods.trl.collator import LabelledTokensCollator, labelled_rows
        from alignbench.methods.trl.scoring import score_completions_alone
        from alignbench.methods.trl.training import train_policy

        policy, found = run.policy, data.labelled_completions
        labels = [one.is_wanted for one in found]
        order = mixed_batches(labels, self.batch_size, self.epochs, run.seed)
        rows = labelled_rows([found[i] for i in order], policy)
        identity = training_identity(self, policy.model, rows, seed=run.seed, lora=run.lora)
        laid_out = {"num_train_epochs": 1, "train_sampling_strategy": "sequential"}
        trainer = KTOTrainer(
            **trainer_arguments(KTOConfig, self, rows, run, **self.objective(), **laid_out),
            ref_model=None if run.lora else policy.frozen_copy().model,
            data_collator=LabelledTokensCollator(policy.pad_id),
        )
        for model in filter(None, (trainer.model, trainer.ref_model)):
            score_completions_alone(model)
        expected = self._first_loss(found)
        return train_policy(
            trainer,
            run,
            identity,
            title="KTO",
            names=LOG_NAMES,
            drawn_completions=data.drawn_completions,
            check_first_step=lambda logs: check_first_step(logs, expected),
            n_forward=2,  # policy and reference
        )

    def _first_loss(self, found: Sequence[LabelledCompletion]) -> float:
        """What the loss of the first batch is; says what the batches are made of, and how the two kinds weigh."""
        n_wanted = wanted_in_a_batch([one.is_wanted for one in found], self.batch_size)
        wanted, unwanted = self.wanted_weight * n_wanted, self.unwanted_weight * (self.batch_size - n_wanted)
        logger.info(
            "KTO: %d of %d completions are wanted, from a reward of %.4g on; %d of a batch of %d",
            *(sum(one.is_wanted for one in found), len(found)),
            *(min(one.reward for one in found if one.is_wanted), n_wanted, self.batch_size),
        )
        if not 0.999 <= wanted / unwanted <= 4 / 3 + 1e-3:
            logger.warning(
                "KTO: in a batch, the wanted completions weigh %.3g times as much as the unwanted ones; the paper has "
                "1 to 1.33, which is method.wanted_weight %.3g to %.3g",
                *(wanted / unwanted, unwanted / n_wanted, 4 / 3 * unwanted / n_wanted),
            )
        return (wanted + unwanted) / (2 * self.batch_size)


LOG_NAMES = {
    "loss": "policy/loss",
    "grad_norm": "policy/gradient_norm",
    "learning_rate": "policy/learning_rate",
    "rewards/chosen": "objective/wanted_reward",
    "rewards/rejected": "objective/unwanted_reward",
    "rewards/margins": "objective/reward_margin",
    "kl": "objective/kl",
}


def check_first_step(logs: Mapping[str, float], expected: float) -> None:
    """Before the first update policy and reference agree: implicit rewards are 0, and each loss is half its weight."""
    off = max(abs(logs["rewards/chosen"]), abs(logs["rewards/rejected"]), abs(logs["loss"] - expected))
    if off > 1e-5:
        raise TrainingError(
            f"the first KTO loss is {logs['loss']:.6f} with implicit rewards {logs['rewards/chosen']:.2e} and "
            f"{logs['rewards/rejected']:.2e}, expected {expected:.6f} and 0: policy and reference differ"
        )


plugin = KTO
