"""Gradient ascent on toxic text: the negative control.

Source: the row of that name in Ilharco et al. 2022 (arXiv:2212.04089), after Golatkar et al. 2019. There it is never
toxic, and perplexity is above 1e10: it is what a table without fluency would call the best method.

Objective: maximise -log pi(y | x) over demonstrations y that are not wanted, by the trainer of `sft` with the sign of
its loss turned round. Nothing bounds it: likelihood falls as long as there are steps.

Differences from the source: gradients are clipped as in every method here, so that it does not reach infinity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.methods.trl.settings import ImitationSettings

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel


@dataclass(frozen=True)
class GradientAscent(ImitationSettings):
    """Unlearning of demonstrations without a bound: a negative control, and no policy to use."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "seq2seq"}),
        learns_from=frozenset({"demonstrations"}),
        texts_in_a_pass=lambda method: method.rows_at_once,
    )

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Takes all demonstrations for what is not to be said."""
        from alignbench.methods.trl.imitation import AscentTrainer, imitate

        drawn = data.drawn_completions
        return imitate(
            self, data.demonstrations, run, title="gradient ascent", drawn_completions=drawn, trainer=AscentTrainer
        )


plugin = GradientAscent
