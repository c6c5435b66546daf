"""A reward model trained on preference pairs.

Papers: Bradley and Terry 1952; for language models Ouyang et al. 2022 (arXiv:2203.02155). Trainer: `trl.RewardTrainer`.

Objective: minimise -log sigmoid(r(x, y_w) - r(x, y_l)).

Differences from the papers: the pairs are labelled by a classifier, not by people, so the model imitates it; one pair
per prompt; it is trained on exactly the token ids that it later scores; no pair has a blank completion, whose reward
is a constant (docs/metrics.md).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from alignbench.errors import ModelError, TrainingError
from alignbench.methods.base import Facts, OwnStart, RunContext, TrainData
from alignbench.methods.trl.settings import TrainerSettings
from alignbench.records import PreferencePair, TextWindow
from alignbench.runtime.ledger import spending

if TYPE_CHECKING:
    from alignbench.scorers.reading import Reader
    from alignbench.scorers.reward_model import RewardModelScorer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RewardModel(TrainerSettings):
    """A Bradley-Terry reward model: one number for a completion."""

    model: str | None = None
    """Checkpoint to start from, hub id or path; None is the policy's. Its head is replaced by one output."""
    text: TextWindow | None = None
    """What it reads, here and wherever it is used; None is what `reward.text` says of the classifier behind the pairs.
    `chat` needs a chat template of the checkpoint's own tokenizer."""
    trust_remote_code: bool = False
    """Run Python code that `model` brings with it; the policy's stands under `policy.trust_remote_code`."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "classifier"}),
        learns_from=frozenset({"preference_pairs"}),
        gives="reward_model",
        texts_in_a_pass=lambda method: 2 * method.rows_at_once,
        own_start=lambda method: OwnStart(method.model, method.text, method.trust_remote_code),
    )

    def train(self, data: TrainData, run: RunContext) -> RewardModelScorer:
        """Trains all weights on all pairs."""
        from datasets import Dataset
        from trl import RewardConfig, RewardTrainer

        from alignbench.methods.trl.arguments import trl_config
        from alignbench.methods.trl.checkpoints import training_identity
        from alignbench.methods.trl.training import train
        from alignbench.scorers.reading import joint_of
        from alignbench.scorers.reward_model import reward_scorer

        model, tokenizer = run.load_reward_model(self.model)
        on_cpu, own = model.device.type == "cpu", {"center_rewards_coefficient": None}
        text, joint = self.text or run.reward_text, joint_of(run.policy)
        reader = training_reader(model, tokenizer, text, joint)
        pairs, rows = _readable(data.pairs, reader)
        identity = training_identity(self, model, rows, seed=run.seed)
        trainer = RewardTrainer(
            model=model,
            args=trl_config(RewardConfig, self, run.checkpoints, seed=run.seed, on_cpu=on_cpu, **own),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        drawn = data.drawn_completions
        train(trainer, run, identity, title="reward model", names=LOG_NAMES, drawn_completions=drawn)
        # Only now: a scorer's faster layers would move the numbers of training in their last digits.
        scorer = reward_scorer(model.eval(), tokenizer, name="reward_model", text=text, joint=joint)
        with spending(scorer) as spent:
            completions = [one.text for pair in pairs for one in (pair.chosen, pair.rejected)]
            scores = scorer.score([pair.prompt.text for pair in pairs for _ in range(2)], completions)
        run.ledger.book(None, "score", replace(spent, reward_calls=len(scores)))
        scorer.blank_reward = min(score for score in scores if score is not None)
        return scorer


def training_reader(model: Any, tokenizer: Any, text: TextWindow, joint: str) -> Reader:
    """What puts texts into a reward model; ModelError where it cannot be trained on them in batches."""
    from alignbench.scorers.padding import ignores_padding
    from alignbench.scorers.reading import Reader

    reader = Reader(model, tokenizer, text, joint, where="method")
    if not ignores_padding(model, reader):
        kind = type(model).__name__
        raise ModelError(f"method.model: got {kind}, which reads padding as text; name a model of another family")
    return reader


def _readable(
    pairs: Sequence[PreferencePair], reader: Reader
) -> tuple[list[PreferencePair], list[dict[str, list[int]]]]:
    """The pairs of which both completions can be read whole, and their token ids; says what was left out or cut."""
    read = [[reader.read(pair.prompt.text, one.text) for one in (pair.chosen, pair.rejected)] for pair in pairs]
    kept = [i for i, both in enumerate(read) if None not in both]
    texts = [one for i in kept for one in read[i] if one is not None]
    if any(text.segments for text in texts):
        raise ModelError("method.model: got a tokenizer that gives token types other than 0, which training cannot use")
    if not kept:
        raise TrainingError(
            f"reward model: no pair of {len(pairs)} can be read whole, in {reader.limit} tokens; shorten "
            "pairs.completion_tokens, or name a model with room for more in method.model"
        )
    if len(kept) < len(pairs):
        logger.warning(
            "reward model: %d of %d pairs are left out, for a completion that is not read whole in %d tokens",
            *(len(pairs) - len(kept), len(pairs), reader.limit),
        )
    if n_cut := sum(text.is_cut for text in texts):
        logger.warning(
            "reward model: the prompts of %d of %d texts are cut on the left, to %d tokens with the completion",
            *(n_cut, len(texts), reader.limit),
        )
    chosen, rejected = texts[::2], texts[1::2]
    rows = [{"chosen_ids": list(c.ids), "rejected_ids": list(r.ids)} for c, r in zip(chosen, rejected, strict=True)]
    return [pairs[i] for i in kept], rows


LOG_NAMES = {
    "loss": "reward_model/loss",
    "grad_norm": "reward_model/gradient_norm",
    "learning_rate": "reward_model/learning_rate",
    "accuracy": "reward_model/pair_accuracy",
    "margin": "reward_model/margin",
    "mean_reward": "reward_model/mean_reward",
}


plugin = RewardModel
