"""Odds-ratio preference optimisation: imitation of the preferred completion, and odds that favour it.

Paper: Hong et al. 2024 (arXiv:2403.07691).

Objective: minimise -m_w - weight * log sigmoid(log odds(m_w) - log odds(m_l)); m is the mean log-probability of the
tokens of a completion, odds(m) = exp(m) / (1 - exp(m)), w the preferred completion of a pair and l the other one. There
is no reference.

Differences from the paper: pairs are the best and the worst of several completions of the policy by the reward, so the
imitation is of the policy's own best completions. Of TRL's trainer: imitation is of the completion, where TRL's takes
the prompt in as well, and the mean is over pairs, where TRL's is over the tokens of a pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.methods.rankings.settings import RankingSettings

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.methods.rankings.losses import Ranking
    from alignbench.models.language_model import LanguageModel


@dataclass(frozen=True)
class ORPO(RankingSettings):
    """ORPO; batches count pairs."""

    weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the odds ratio beside the imitation: lambda in the paper, `beta` in TRL."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "seq2seq"}),
        learns_from=frozenset({"preference_pairs"}),
        texts_in_a_pass=lambda method: 1 if method.gradient_checkpointing else 2 * method.rows_at_once,
    )

    def loss(self, ranking: Ranking) -> Tensor:
        """The loss of each pair, (b,)."""
        from alignbench.methods.rankings.losses import orpo_loss

        return orpo_loss(ranking, self.weight)

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Trains on all pairs."""
        from alignbench.methods.rankings.batches import pairs_as_rankings
        from alignbench.methods.rankings.training import RankingTrainer

        trainer = RankingTrainer(self, self.loss, pairs_as_rankings(data.pairs), run)
        return trainer.train(title="ORPO", drawn_completions=data.drawn_completions)


plugin = ORPO
