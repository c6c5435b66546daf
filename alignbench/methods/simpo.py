"""Simple preference optimisation: mean log-probabilities as rewards, a margin, and no reference.

Paper: Meng et al. 2024 (arXiv:2405.14734).

Objective: minimise -log sigmoid(beta * (m_w - m_l) - gamma); m is the mean log-probability of the tokens of a
completion, w the preferred completion of a pair and l the other one.

Differences from the paper: pairs are the best and the worst of several completions of the policy by the reward. Of
TRL's trainer: `loss_type="simpo"` there imitates the preferred completion besides (`cpo_alpha` stays 1.0); here nothing
is added.
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
class SimPO(RankingSettings):
    """SimPO; batches count pairs."""

    beta: Annotated[float, Field(gt=0)] = 2.5
    """Scale of the difference of mean log-probabilities."""
    gamma: Annotated[float, Field(ge=0)] = 1.375
    """The margin that is aimed at; the paper's, and `simpo_gamma` in TRL. By default 0.55 of `beta`."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "seq2seq"}),
        learns_from=frozenset({"preference_pairs"}),
        texts_in_a_pass=lambda method: 1 if method.gradient_checkpointing else 2 * method.rows_at_once,
    )

    def loss(self, ranking: Ranking) -> Tensor:
        """The loss of each pair, (b,)."""
        from alignbench.methods.rankings.losses import simpo_loss

        return simpo_loss(ranking, self.beta, self.gamma)

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Trains on all pairs."""
        from alignbench.methods.rankings.batches import pairs_as_rankings
        from alignbench.methods.rankings.training import RankingTrainer

        trainer = RankingTrainer(self, self.loss, pairs_as_rankings(data.pairs), run)
        return trainer.train(title="SimPO", drawn_completions=data.drawn_completions)


plugin = SimPO
