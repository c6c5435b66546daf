"""Supervised fine-tuning: the policy imitates demonstrations.

Paper: the first step of Ouyang et al. 2022 (arXiv:2203.02155). Trainer: `trl.SFTTrainer`, with a loss of ours: its
own raises on encoder-decoder models, and scores prompts too where it computes on a CPU.

Objective: minimise -log pi(y_t | x, y_<t), averaged over all tokens of the completions y of a batch. Prompts are read
and not learned.

Differences from the paper: the demonstrations are what `demonstrations` in the recipe says, not people's; what a pass
holds does not change the average, which TRL takes over each pass for models that cannot be told the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.methods.trl.settings import ImitationSettings

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel


@dataclass(frozen=True)
class SFT(ImitationSettings):
    """Imitation of demonstrations, by the mean negative log-likelihood of their tokens."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "seq2seq"}),
        learns_from=frozenset({"demonstrations"}),
        texts_in_a_pass=lambda sft: sft.rows_at_once,
    )

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Trains on all demonstrations."""
        from alignbench.methods.trl.imitation import imitate

        return imitate(self, data.demonstrations, run, title="SFT", drawn_completions=data.drawn_completions)


plugin = SFT
