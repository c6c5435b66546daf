"""Direct preference optimisation on pairs that a classifier has labelled, and the losses that vary it.

Paper: Rafailov et al. 2023 (arXiv:2305.18290). Trainer: `trl.DPOTrainer`.

Objective: minimise, over pairs, a function of w = log pi(y_w|x)/ref(y_w|x) and l = log pi(y_l|x)/ref(y_l|x); d = w - l,
L(d) = -log sigmoid(beta d), e = label_smoothing.

    sigmoid    L(d)                                          Rafailov et al. 2023
    ipo        (w / |y_w| - l / |y_l| - 1 / (2 beta))^2      Azar et al. 2023 (arXiv:2310.12036)
    hinge      max(0, 1 - beta d)                            Zhao et al. 2023 (arXiv:2305.10425)
    robust     ((1 - e) L(d) - e L(-d)) / (1 - 2 e)          Chowdhury et al. 2024 (arXiv:2403.00409)
    cdpo       (1 - e) L(d) + e L(-d)                        Mitchell 2023, "A note on DPO with noisy preferences"
    sppo_hard  (w - 1 / (2 beta))^2 + (l + 1 / (2 beta))^2   Wu et al. 2024 (arXiv:2405.00675)
    apo_zero   1 - sigmoid(beta w) + sigmoid(beta l)         D'Oosterlinck et al. 2024 (arXiv:2408.06266)
    apo_down   sigmoid(beta w) + 1 - sigmoid(beta d)         the same

Differences from the papers: pairs are the best and the worst of several completions of the starting policy by the
reward, not human choices; they are trained on as sampled, without an end-of-sequence token where there was none. `ipo`
takes means over tokens, as its authors have confirmed to TRL, so a published tau for sums is no `beta` here. `cdpo` is
no loss of TRL, which ignores `label_smoothing` beside `sigmoid`: it is trained as 2 (1 - e) sigmoid - (1 - 2 e) robust.
`sppo_hard` takes the winner's probability for 1 where the paper estimates it, on pairs that are drawn once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from alignbench.errors import TrainingError
from alignbench.identity import OnlyIfChanged
from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.methods.trl.settings import TrainerSettings

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel

SEVERAL = 2
"""Epochs from which on the reference is asked once, before training, and not in every step."""
SMOOTHED = ("robust", "cdpo")
FIRST_LOSS: Mapping[str, Callable[[float], float]] = {
    "sigmoid": lambda beta: math.log(2),
    "ipo": lambda beta: 1 / (4 * beta**2),
    "hinge": lambda beta: 1.0,
    "robust": lambda beta: math.log(2),
    "cdpo": lambda beta: math.log(2),
    "sppo_hard": lambda beta: 1 / (2 * beta**2),
    "apo_zero": lambda beta: 1.0,
    "apo_down": lambda beta: 1.0,
}
"""What each loss is where the policy is the reference, whatever the label smoothing."""


@dataclass(frozen=True)
class DPO(TrainerSettings):
    """DPO; the reference is the policy before training."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull to the reference: the weight of the KL term in the objective that DPO solves."""
    loss: Annotated[
        Literal["sigmoid", "ipo", "hinge", "robust", "cdpo", "sppo_hard", "apo_zero", "apo_down"], OnlyIfChanged()
    ] = "sigmoid"
    """Function of the log-ratios that is minimised; each has a scale of `beta` and of the learning rate of its own."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5), OnlyIfChanged()] = 0.0
    """Share of the pairs that are taken to be the wrong way round; read by `robust` and `cdpo` alone."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal"}),
        learns_from=frozenset({"preference_pairs"}),
        texts_in_a_pass=lambda dpo: 2 * dpo.rows_at_once,
        cautions=lambda dpo: dpo.cautions(),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise ValueError(
                f"label_smoothing 0 beside loss {self.loss}, which does not read it, not {self.label_smoothing:g}; "
                f"{' and '.join(SMOOTHED)} do"
            )

    def cautions(self) -> list[str]:
        """Says where a loss is another one by its settings."""
        if self.loss in SMOOTHED and not self.label_smoothing:
            return [f"method.label_smoothing is 0, where {self.loss} is the sigmoid loss; 0.1 is a usual value"]
        return []

    def objective(self) -> dict[str, Any]:
        """The settings of TRL's trainer that make the loss."""
        settings: dict[str, Any] = {"beta": self.beta, "loss_type": [self.loss]}
        e = self.label_smoothing
        if self.loss in SMOOTHED:
            settings["label_smoothing"] = e
        if self.loss == "cdpo":
            settings |= {"loss_type": ["sigmoid", "robust"], "loss_weights": [2 - 2 * e, 2 * e - 1]}
        return settings

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Trains on all pairs."""
        from trl import DPOConfig

        from alignbench.methods.trl.arguments import trainer_arguments
        from alignbench.methods.trl.checkpoints import last_checkpoint, training_identity
        from alignbench.methods.trl.collator import SampledTokensCollator, preference_rows
        from alignbench.methods.trl.reference import cost_of_one_pass, no_progress_bar
        from alignbench.methods.trl.scoring import PairTrainer
        from alignbench.methods.trl.training import train_policy

        policy = run.policy
        rows = preference_rows(data.pairs, policy)
        identity = training_identity(self, policy.model, rows, seed=run.seed, lora=run.lora)
        # What the reference says of a pair is the same in every epoch. Asked before training it is the policy itself.
        is_asked_once = self.epochs >= SEVERAL
        asked: dict[str, Any] = {"precompute_ref_log_probs": True} if is_asked_once else {}
        if is_asked_once:
            last_checkpoint(run.checkpoints, identity)  # its kernels multiply for the reference too
        with no_progress_bar():
            trainer = PairTrainer(
                **trainer_arguments(DPOConfig, self, rows, run, **self.objective(), **asked),
                # Left to itself TRL reloads a reference from the hub name; with an adapter it switches the adapter off.
                ref_model=None if run.lora or is_asked_once else policy.frozen_copy().model,
                data_collator=SampledTokensCollator(policy.pad_id),
            )
        return train_policy(
            trainer,
            run,
            identity,
            title="DPO",
            names=LOG_NAMES,
            drawn_completions=data.drawn_completions,
            check_first_step=self.check_first_step,
            n_forward=1 if is_asked_once else 2,  # policy and reference
            before=cost_of_one_pass(trainer.model, rows) if is_asked_once else None,
        )

    def check_first_step(self, logs: Mapping[str, float]) -> None:
        """Before the first update policy and reference agree: both implicit rewards are 0, and the loss is known.

        The loss alone would miss a reference that is wrong on chosen and rejected completions alike.
        """
        expected = FIRST_LOSS[self.loss](self.beta)
        off = max(abs(logs["rewards/chosen"]), abs(logs["rewards/rejected"]), abs(logs["loss"] / expected - 1))
        if off > 1e-5:
            known = "ln 2 = " if expected == math.log(2) else ""
            raise TrainingError(
                f"the first DPO loss ({self.loss}) is {logs['loss']:.6f} with implicit rewards "
                f"{logs['rewards/chosen']:.2e} and {logs['rewards/rejected']:.2e}, expected {known}{expected:.6f} "
                "and 0: policy and reference differ"
            )


LOG_NAMES = {
    "loss": "policy/loss",
    "grad_norm": "policy/gradient_norm",
    "learning_rate": "policy/learning_rate",
    "rewards/chosen": "objective/chosen_reward",
    "rewards/rejected": "objective/rejected_reward",
    "rewards/margins": "objective/reward_margin",
    "rewards/accuracies": "objective/pair_accuracy",
}


plugin = DPO
