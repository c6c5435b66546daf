"""Kahneman-Tversky optimisation: completions that are wanted or unwanted, each by itself.

Paper: Ethayarajh et al. 2024 (arXiv:2402.01306). Trainer: `trl.KTOTrainer`.

Objective: minimise 1 - sigmoid(beta * (log pi(y|x)/ref(y|x) - z)) of a wanted completion, 1 - sigmoid(beta * (z - log
pi(y|x)/ref(y|x))) of an unwanted one; z estimates KL(pi || ref) on prompts with each other's completions.

Differences from the paper: a completion is wanted where the recipe's reward is at least `labelled_completions.
wanted_from`, not where a person says so.
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
class KTO(TrainerSettings):
    """KTO with equal weights; the reference is the policy before training."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull to the reference."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal"}),
        learns_from=frozenset({"labelled_completions"}),
        texts_in_a_pass=lambda kto: kto.rows_at_once,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows_at_once < 2:
            raise ValueError("2 or more completions in a pass: z needs a prompt with the completion of another one")

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
        trainer = KTOTrainer(
            model=policy.model,
            ref_model=None if run.lora else policy.frozen_copy().model,
            args=trl_config(KTOConfig, self, run.checkpoints, seed=run.seed, on_cpu=on_cpu, beta=self.beta),
            train_dataset=Dataset.from_list(rows),
            data_collator=collator(policy.pad_id),
            processing_class=policy.tokenizer,
            peft_config=lora_config(run.lora, policy.model) if run.lora else None,
        )
        train(
            trainer,
            run,
            identity,
            title="KTO",
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
    "kl": "objective/kl",
}


def collator(pad_id: int) -> Any:
    """Returns what batches rows by their sampled tokens: each prompt with its completion, and with its neighbour's."""
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    lay_out = DataCollatorForUnpairedPreference(pad_id)

    def collate(rows: Sequence[Mapping[str, Any]]) -> Any:
        prompts, completions = zip(*(row["sampled"] for row in rows), strict=True)
        names = ("prompt_ids", "completion_ids", "KL_completion_ids", "label")
        columns = (prompts, completions, [completions[-1], *completions[:-1]], [row["label"] for row in rows])
        return lay_out([dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)])

    return collate


def check_first_step(logs: Mapping[str, float]) -> None:
    """Before the first update policy and reference agree: every loss is 1 - sigmoid(0)."""
    if abs(logs["loss"] - 0.5) > 1e-5:
        raise TrainingError(f"the first KTO loss is {logs['loss']:.6f}, expected 0.5: policy and reference differ")
