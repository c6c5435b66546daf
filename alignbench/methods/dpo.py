"""Direct preference optimisation on pairs that a classifier has labelled.

Paper: Rafailov et al. 2023 (arXiv:2305.18290). Trainer: `trl.DPOTrainer`.

Objective: minimise -log sigmoid(beta * (log pi(y_w|x)/ref(y_w|x) - log pi(y_l|x)/ref(y_l|x))).

Differences from the paper: pairs are the best and the worst of several completions of the starting policy by the
reward, not human choices; they are trained on as sampled, without an end-of-sequence token where there was none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from alignbench.errors import TrainingError
from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.methods.trl.settings import TrainerSettings

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel


@dataclass(frozen=True)
class DPO(TrainerSettings):
    """DPO with the sigmoid loss; the reference is the policy before training."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull to the reference: the weight of the KL term in the objective that DPO solves."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal"}),
        learns_from=frozenset({"preference_pairs"}),
        texts_in_a_pass=lambda dpo: 2 * dpo.rows_at_once,
    )

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Trains on all pairs."""
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        from alignbench.methods.trl.arguments import trl_config
        from alignbench.methods.trl.checkpoints import training_identity
        from alignbench.methods.trl.collator import SampledTokensCollator, preference_rows
        from alignbench.methods.trl.training import train
        from alignbench.models.adapters import lora_config

        policy = run.policy
        rows = preference_rows(data.pairs, policy)
        identity = training_identity(self, policy.model, rows, seed=run.seed, lora=run.lora)
        on_cpu = policy.device.type == "cpu"
        own = {"beta": self.beta, "loss_type": ["sigmoid"]}
        trainer = DPOTrainer(
            model=policy.model,
            # Left to itself TRL reloads a reference from the hub name; with an adapter it switches the adapter off.
            ref_model=None if run.lora else policy.frozen_copy().model,
            args=trl_config(DPOConfig, self, run.checkpoints, seed=run.seed, on_cpu=on_cpu, **own),
            train_dataset=Dataset.from_list(rows),
            data_collator=SampledTokensCollator(policy.pad_id),
            processing_class=policy.tokenizer,
            peft_config=lora_config(run.lora, policy.model) if run.lora else None,
        )
        train(
            trainer,
            run,
            identity,
            title="DPO",
            names=LOG_NAMES,
            drawn_completions=data.drawn_completions,
            as_policy=policy.with_model,
            check_first_step=check_first_step,
            n_forward=2,  # policy and reference
        )
        policy.model = trainer.model.eval()
        return policy


LOG_NAMES = {
    "loss": "policy/loss",
    "grad_norm": "policy/gradient_norm",
    "learning_rate": "policy/learning_rate",
    "rewards/chosen": "objective/chosen_reward",
    "rewards/rejected": "objective/rejected_reward",
    "rewards/margins": "objective/reward_margin",
    "rewards/accuracies": "objective/pair_accuracy",
}


def check_first_step(logs: Mapping[str, float]) -> None:
    """Before the first update policy and reference agree: both implicit rewards are 0 and the loss is ln 2.

    The loss alone would miss a reference that is wrong on chosen and rejected completions alike.
    """
    off = max(abs(logs["rewards/chosen"]), abs(logs["rewards/rejected"]), abs(logs["loss"] - math.log(2)))
    if off > 1e-5:
        raise TrainingError(
            f"the first DPO loss is {logs['loss']:.6f} with implicit rewards {logs['rewards/chosen']:.2e} and "
            f"{logs['rewards/rejected']:.2e}, expected ln 2 = 0.693147 and 0: policy and reference differ"
        )


plugin = DPO
