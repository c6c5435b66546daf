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
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from alignbench.methods.rankings.pairs import PairRanking

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.methods.rankings.losses import Ranking


@dataclass(frozen=True)
class SimPO(PairRanking):
    """SimPO; batches count pairs."""

    beta: Annotated[float, Field(gt=0)] = 2.5
    """Scale of the difference of mean log-probabilities."""
    gamma: Annotated[float, Field(ge=0)] = 1.375
    """The margin that is aimed at; the paper's, and `simpo_gamma` in TRL. By default 0.55 of `beta`."""

    def loss(self, ranking: Ranking) -> Tensor:
        """The loss of each pair, (b,)."""
        from alignbench.methods.rankings.losses import simpo_loss

        return simpo_loss(ranking, self.beta, self.gamma)


plugin = SimPO
