"""Rank responses to align human feedback: the likelier of two completions shall be the better one.

Paper: Yuan et al. 2023 (arXiv:2304.05302).

Objective: minimise rank_weight * the sum of max(0, m_i - m_j) over all completions i of a prompt that are worse than j,
minus m of the best one; m is the mean log-probability of the tokens of a completion. There is no reference, and rewards
count by their order alone.

Differences from the paper: all completions are the policy's own, ranked by the reward; imitation of the best is a mean
over tokens, where the paper writes a sum. Of equally good completions the first drawn is imitated, and none of them is
held to be the likelier.
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
class RRHF(RankingSettings):
    """RRHF; batches count prompts, each with all its completions."""

    rank_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the ranking beside the imitation of the best."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "seq2seq"}),
        learns_from=frozenset({"ranked_completions"}),
        texts_in_a_pass=lambda method: 1 if method.gradient_checkpointing else method.rows_at_once,
        texts_of_a_prompt=lambda method, n_completions: 1 if method.gradient_checkpointing else n_completions,
    )

    def loss(self, ranking: Ranking) -> Tensor:
        """The loss of each prompt, (b,)."""
        from alignbench.methods.rankings.losses import rrhf_loss

        return rrhf_loss(ranking, self.rank_weight)

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Trains on all prompts that have completions to rank."""
        from alignbench.methods.rankings.training import RankingTrainer

        trainer = RankingTrainer(self, self.loss, data.ranked_completions, run)
        return trainer.train(title="RRHF", drawn_completions=data.drawn_completions)


plugin = RRHF
