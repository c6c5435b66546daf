"""Anchored preference optimisation on unpaired completions: wanted ones become likelier, unwanted ones less likely.

Paper: D'Oosterlinck et al. 2024 (arXiv:2408.06266), APO-zero, of which TRL has this variant without pairs. Trainer:
`trl.KTOTrainer`.

Objective: minimise 1 - sigmoid(beta * log pi(y|x)/ref(y|x)) of a wanted completion, sigmoid(beta * log
pi(y|x)/ref(y|x)) of an unwanted one.

Differences from the paper: a completion is wanted where the recipe's reward is at least `labelled_completions.
wanted_from`; the two losses of a pair stand alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from alignbench.errors import TrainingError
from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.methods.trl.settings import TrainerSettings

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel


@dataclass(frozen=True)
class UnpairedAPO(TrainerSettings):
    """APO-zero without pairs; the reference is the policy before training."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull to the reference."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal"}),
        learns_from=frozenset({"labelled_completions"}),
        texts_in_a_pass=lambda method: method.rows_at_once,
    )

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Trains on all labelled completions, as they were sampled."""
        from datasets import Dataset
        from trl import KTOConfig, KTOTrainer

        from alignbench.methods.trl.arguments import trl_config
        from alignbench.methods.trl.checkpoints import training_identity
        from alignbench.methods.trl.training import train
        from alignbench.models.adapters import lora_config

        policy = run.policy
        rows: list[dict[str, Any]] = [
            {
                "prompt": "",  # TRL insists on texts; what is trained on is `sampled`
                "completion": "",
                "label": one.is_wanted,
                "sampled": [policy.encode_prompt(one.prompt), list(one.completion.token_ids)],
            }
            for one in data.labelled_completions
        ]
        identity = training_identity(self, policy.model, rows, seed=run.seed, lora=run.lora)
        on_cpu = policy.device.type == "cpu"
        own = {"loss_type": "apo_zero_unpaired", "beta": self.beta}
        trainer = KTOTrainer(
            model=policy.model,
            ref_model=None if run.lora else policy.frozen_copy().model,
            args=trl_config(KTOConfig, self, run.checkpoints, seed=run.seed, on_cpu=on_cpu, **own),
            train_dataset=Dataset.from_list(rows),
            data_collator=collator(policy.pad_id),
            processing_class=policy.tokenizer,
            peft_config=lora_config(run.lora, policy.model) if run.lora else None,
        )
        train(
            trainer,
            run,
            identity,
            title="unpaired APO",
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
}


def collator(pad_id: int) -> Any:
    """Returns what batches rows by their sampled tokens."""
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    lay_out = DataCollatorForUnpairedPreference(pad_id)

    def collate(rows: Sequence[Mapping[str, Any]]) -> Any:
        names = ("prompt_ids", "completion_ids", "label")
        return lay_out([dict(zip(names, (*row["sampled"], row["label"]), strict=True)) for row in rows])

    return collate


def check_first_step(logs: Mapping[str, float]) -> None:
    """Before the first update policy and reference agree: every loss is sigmoid(0)."""
    if abs(logs["loss"] - 0.5) > 1e-5:
        raise TrainingError(f"the first loss is {logs['loss']:.6f}, expected 0.5: policy and reference differ")
