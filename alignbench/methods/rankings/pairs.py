"""Methods on ranked pairs: they differ in their settings and their loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.methods.rankings.settings import RankingSettings

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.methods.rankings.losses import Ranking
    from alignbench.models.language_model import LanguageModel


@dataclass(frozen=True)
class PairRanking(RankingSettings, ABC):
    """A method that minimises a loss of each pair; batches count pairs."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "seq2seq"}),
        learns_from=frozenset({"preference_pairs"}),
        texts_in_a_pass=lambda method: 1 if method.gradient_checkpointing else 2 * method.rows_at_once,
    )

    @abstractmethod
    def loss(self, ranking: Ranking) -> Tensor:
        """The loss of each pair, (b,)."""

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Trains on all pairs."""
        from alignbench.methods.rankings.batches import pairs_as_rankings
        from alignbench.methods.rankings.training import RankingTrainer

        trainer = RankingTrainer(self, self.loss, pairs_as_rankings(data.pairs), run)
        return trainer.train(title=type(self).__name__, drawn_completions=data.drawn_completions)
