"""Contrastive preference optimisation: DPO without its reference, and imitation of the preferred completion.

Paper: Xu et al. 2024 (arXiv:2401.08417).

Objective: minimise -log sigmoid(beta * (s_w - s_l)) - alpha * m_w; s is the log-probability of a completion, m the mean
over its tokens, w the preferred completion of a pair and l the other one.

Differences from the paper: pairs are the best and the worst of several completions of the policy by the reward, not
translations; imitation is a mean over tokens, as in the authors' code, where the paper writes a sum. Of TRL's trainer:
imitation is of the completion, where TRL's takes the prompt in as well, and the mean is over pairs, where TRL's is over
the tokens of a pass.
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
class CPO(PairRanking):
    """CPO; batches count pairs."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Scale of the difference of log-probabilities."""
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the imitation."""

    def loss(self, ranking: Ranking) -> Tensor:
        """The loss of each pair, (b,)."""
        from alignbench.methods.rankings.losses import cpo_loss

        return cpo_loss(ranking, self.beta, self.alpha)


plugin = CPO
