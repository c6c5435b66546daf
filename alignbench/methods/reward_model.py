"""A reward model trained on preference pairs.

Papers: Bradley and Terry 1952; for language models Ouyang et al. 2022 (arXiv:2203.02155). Trainer: `trl.RewardTrainer`.

Objective: minimise -log sigmoid(r(x, y_w) - r(x, y_l) - margin * (R_w - R_l)) + centering * (r(x, y_w) + r(x, y_l))^2;
R is what the pairs were ordered by. By default neither `margin` nor `centering` is there. The margin is that of Touvron
et al. 2023 (arXiv:2307.09288), by the classifier's rewards in place of people's words on how much better an answer is.
The second term is of Eisenstein et al. 2023 (arXiv:2312.09244), and fixes the level of r, which pairs leave open. An
ensemble (Coste et al. 2023, arXiv:2310.02743) has `members`, each trained on a bootstrap of the pairs from an output
layer of its own.

Differences from the papers: the pairs are labelled by a classifier, not by people, so the model imitates it; one pair
per prompt; it is trained on exactly the token ids that it later scores; no pair has a blank completion, whose reward
is a constant (docs/metrics.md).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from alignbench.errors import ModelError, TrainingError
from alignbench.identity import OnlyIfChanged
from alignbench.methods.base import Facts, OwnStart, RunContext, TrainData, TrainedScorer
from alignbench.methods.trl.settings import TrainerSettings
from alignbench.records import Cost, Policy, PreferencePair, TextWindow
from alignbench.runtime.ledger import spending
from alignbench.runtime.randomness import generator

if TYPE_CHECKING:
    from alignbench.scorers.reading import Reader
    from alignbench.scorers.reward_model import RewardModelScorer

logger = logging.getLogger(__name__)
Row = Mapping[str, Any]
"""A pair as token ids, with its margin where it has one."""


@dataclass(frozen=True)
class RewardModel(TrainerSettings):
    """A Bradley-Terry reward model: one number for a completion."""

    model: str | None = None
    """Checkpoint to start from, hub id or path; None is the policy's. Its head is replaced by one output."""
    text: TextWindow | None = None
    """What it reads, here and wherever it is used; None is what `reward.text` says of the classifier behind the pairs.
    `chat` needs a chat template of the checkpoint's own tokenizer."""
    margin: Annotated[float, Field(ge=0), OnlyIfChanged()] = 0.0
    """How much of the difference of the rewards behind a pair its scores must differ by; 0: by any amount."""
    centering: Annotated[float | None, Field(gt=0), OnlyIfChanged()] = None
    """Weight of the squared sum of both scores of a pair, which draws their mean to 0; such as 0.01. null: none."""
    members: Annotated[int, Field(ge=1), OnlyIfChanged()] = 1
    """Models that are trained one after another, each on as many pairs drawn with replacement; 1: one, on all pairs."""
    combine: Annotated[Literal["lowest", "mean"], OnlyIfChanged()] = "lowest"
    """Which of the members' scores is the reward: the lowest, so that no single one can be fooled, or the mean."""
    trust_remote_code: bool = False
    """Run Python code that `model` brings with it; the policy's stands under `policy.trust_remote_code`."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "classifier"}),
        learns_from=frozenset({"preference_pairs"}),
        gives="reward_model",
        texts_in_a_pass=lambda method: 2 * method.rows_at_once,
        own_start=lambda method: OwnStart(method.model, method.text, method.trust_remote_code),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.members == 1 and self.combine != "lowest":
            raise ValueError(f"combine left out beside members 1, which has one score, not {self.combine}")

    def train(self, data: TrainData, run: RunContext) -> TrainedScorer:
        """Trains all weights on all pairs, or those of every member on its own."""
        from alignbench.scorers.reading import joint_of
        from alignbench.scorers.reward_ensemble import RewardEnsemble
        from alignbench.scorers.reward_model import reward_scorer

        model, tokenizer = run.load_reward_model(self.model)
        text, joint = self.text or run.reward_text, joint_of(run.policy)
        reader = training_reader(model, tokenizer, text, joint)
        pairs, tokens = _readable(data.pairs, reader)
        rows: list[Row] = [{**row, **self.margin_of(pair)} for row, pair in zip(tokens, pairs, strict=True)]
        models = [model, *(with_own_output(model, run.seed, i) for i in range(1, self.members))]
        n_steps = 0
        for i, one in enumerate(models):
            if self.members == 1:
                self._fit(one, tokenizer, rows, run, data)
            else:
                own = member_of(run, i, self.members, n_steps, data.drawn_completions)
                n_steps += self._fit(one, tokenizer, bootstrap(rows, run.seed, i), own, data)
        # Only now: a scorer's faster layers would move the numbers of training in their last digits.
        scorers = [reward_scorer(one.eval(), tokenizer, name="reward_model", text=text, joint=joint) for one in models]
        for scorer in scorers:
            _set_blank_reward(scorer, pairs, run)
        return scorers[0] if self.members == 1 else RewardEnsemble(scorers, self.combine, name="reward_model")

    def _fit(self, model: Any, tokenizer: Any, rows: Sequence[Row], run: RunContext, data: TrainData) -> int:
        """Trains one model on some rows; returns its steps."""
        from datasets import Dataset
        from trl import RewardConfig, RewardTrainer

        from alignbench.methods.trl.arguments import trl_config
        from alignbench.methods.trl.checkpoints import training_identity
        from alignbench.methods.trl.training import train

        on_cpu = model.device.type == "cpu"
        identity = training_identity(self, model, rows, seed=run.seed)
        trainer = RewardTrainer(
            model=model,
            args=trl_config(RewardConfig, self, run.checkpoints, seed=run.seed, on_cpu=on_cpu, **self.objective()),
            train_dataset=Dataset.from_list(list(rows)),
            processing_class=tokenizer,
        )
        drawn = data.drawn_completions
        train(trainer, run, identity, title="reward model", names=LOG_NAMES, drawn_completions=drawn)
        return int(trainer.state.global_step)

    def objective(self) -> dict[str, Any]:
        """The settings of TRL's trainer that make the loss; a margin is part of the rows."""
        return {"center_rewards_coefficient": self.centering}

    def margin_of(self, pair: PreferencePair) -> dict[str, float]:
        """What a row says of the margin of its pair; nothing without one."""
        return {"margin": self.margin * (pair.chosen_reward - pair.rejected_reward)} if self.margin else {}


def with_own_output(model: Any, seed: int, member: int) -> Any:
    """Returns a copy for one member of an ensemble: the weights of its fresh output are the same in another order."""
    import torch

    copied = copy.deepcopy(model)
    draws = generator(seed, "output", member)
    inner = {id(one) for one in copied.base_model.parameters()}
    with torch.no_grad():
        for one in copied.parameters():
            if id(one) not in inner and one.dim() == 2 and len(one) == 1:
                one.copy_(one[:, torch.from_numpy(draws.permutation(one.shape[1]))])
    return copied


def bootstrap(rows: Sequence[Row], seed: int, member: int) -> list[Row]:
    """Returns as many rows as there are, drawn with replacement for one member of an ensemble."""
    return [rows[i] for i in generator(seed, "bootstrap", member).integers(len(rows), size=len(rows)).tolist()]


def member_of(run: RunContext, member: int, n_members: int, steps_before: int, drawn_completions: int) -> RunContext:
    """Returns the surroundings in which one member is trained: its checkpoints, and its steps after those before it.

    The completions behind the pairs are used up over all members.
    """

    def step_done(
        step: int, completions: int, metrics: Mapping[str, float], cost: Mapping[str, Cost], policy: Policy | None
    ) -> None:
        used = (member * drawn_completions + completions) // n_members
        run.step_done(steps_before + step, used, {**metrics, "reward_model/member": float(member)}, cost, policy)

    return replace(run, checkpoints=run.checkpoints / f"member{member}", step_done=step_done)


def _set_blank_reward(scorer: RewardModelScorer, pairs: Sequence[PreferencePair], run: RunContext) -> None:
    """What no pair has is worth the lowest score of what some pair has."""
    with spending(scorer) as spent:
        completions = [one.text for pair in pairs for one in (pair.chosen, pair.rejected)]
        scores = scorer.score([pair.prompt.text for pair in pairs for _ in range(2)], completions)
    run.ledger.book(None, "score", replace(spent, reward_calls=len(scores)))
    scorer.blank_reward = min(score for score in scores if score is not None)


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
