"""A reward model trained on preference pairs.

Papers: Bradley and Terry 1952; for language models Ouyang et al. 2022 (arXiv:2203.02155). Trainer: `trl.RewardTrainer`.

Objective: minimise -log sigmoid(r(x, y_w) - r(x, y_l)).

Differences from the papers: the pairs are labelled by a classifier, not by people, so the model imitates it; one pair
per prompt; it is trained on exactly the token ids that it later scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from alignbench.methods.base import Architecture, DataKind, RunContext, TrainData
from alignbench.records import read_text
from alignbench.training.settings import TrainerSettings

if TYPE_CHECKING:
    from alignbench.scorers.classifier import ClassifierScorer


@dataclass(frozen=True)
class RewardModel(TrainerSettings):
    """A Bradley-Terry reward model: one number for a completion."""

    model: str | None = None
    """Checkpoint to start from, hub id or path; None is the policy's. Its head is replaced by one output."""
    trust_remote_code: bool = False
    """Run Python code that `model` brings with it; the policy's stands under `policy.trust_remote_code`."""

    needs: ClassVar[frozenset[DataKind]] = frozenset({"preference_pairs"})
    needs_reward: ClassVar[bool] = False
    architectures: ClassVar[frozenset[Architecture]] = frozenset({"causal", "classifier"})
    produces: ClassVar[Literal["reward_model"]] = "reward_model"

    def train(self, data: TrainData, run: RunContext) -> TrainedRewardModel:
        """Trains all weights on all pairs."""
        from datasets import Dataset
        from trl import RewardConfig, RewardTrainer

        from alignbench.scorers.classifier import encode
        from alignbench.scorers.reward_model import reward_scorer
        from alignbench.training.checkpoints import training_identity
        from alignbench.training.trl_arguments import StepLog, train, trl_arguments

        model, tokenizer = run.load_reward_model(self.model)
        shared = trl_arguments(self, run.checkpoints, seed=run.seed, on_cpu=model.device.type == "cpu")

        def ids(prompt: str, completion: str) -> list[int]:
            return encode(tokenizer, model.config, read_text(prompt, completion, run.reward_text))

        rows = [
            {"chosen_ids": ids(p.prompt.text, p.chosen.text), "rejected_ids": ids(p.prompt.text, p.rejected.text)}
            for p in data.pairs
        ]
        identity = training_identity(self, model, rows, seed=run.seed)
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(center_rewards_coefficient=None, **shared),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[StepLog("reward model", _LOG_NAMES, run.log)],
        )
        train(trainer, run.checkpoints, run.ledger, identity)
        return TrainedRewardModel(
            model, tokenizer, reward_scorer(model.eval(), tokenizer, name="reward_model", text=run.reward_text)
        )


@dataclass(frozen=True)
class TrainedRewardModel:
    """A trained reward model, and the scorer that it is."""

    model: Any
    tokenizer: Any
    scorer: ClassifierScorer

    def save(self, directory: Path) -> None:
        """Writes weights (safetensors) and tokenizer."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


_LOG_NAMES = {
    "loss": "reward_model/loss",
    "grad_norm": "reward_model/gradient_norm",
    "learning_rate": "reward_model/learning_rate",
    "accuracy": "reward_model/pair_accuracy",
    "margin": "reward_model/margin",
    "mean_reward": "reward_model/mean_reward",
}
