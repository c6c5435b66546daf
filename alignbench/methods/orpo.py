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
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from alignbench.methods.rankings.pairs import PairRanking

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.methods.rankings.losses import Ranking


@dataclass(frozen=True)
class ORPO(PairRanking):
    """ORPO; batches count pairs."""

    weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the odds ratio beside the imitation: lambda in the paper, `beta` in TRL."""

    def loss(self, ranking: Ranking) -> Tensor:
        """The loss of each pair, (b,)."""
        from alignbench.methods.rankings.losses import orpo_loss

        return orpo_loss(ranking, self.weight)


plugin = ORPO
