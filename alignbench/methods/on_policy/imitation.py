"""Imitation of demonstrations beside the objective, against forgetting (PPO-ptx: Ouyang et al. 2022, arXiv:2203.02155).

maximise the objective + ptx_coef * E[log pi(y | x)], a mean over the tokens of demonstrations (x, y)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignbench.errors import TrainingError
from alignbench.records import fingerprint
from alignbench.runtime.randomness import generator

if TYPE_CHECKING:
    from alignbench.models.forward import SequenceBatch
    from alignbench.models.language_model import LanguageModel
    from alignbench.records import Demonstration


class Imitation:
    """Mini-batches of demonstrations, drawn by seed, step and number."""

    def __init__(self, policy: LanguageModel, demonstrations: Sequence[Demonstration], size: int, seed: int) -> None:
        """Takes `size` demonstrations into each mini-batch.

        Raises:
            TrainingError: There are none.
        """
        if not demonstrations:
            raise TrainingError("ptx_coef: expected demonstrations to imitate, got none; 0 imitates nothing")
        self.policy, self.demonstrations, self.size, self.seed = policy, demonstrations, size, seed

    @property
    def identity(self) -> str:
        """Tells these demonstrations from others."""
        return fingerprint([[one.prompt.identity, list(one.completion.token_ids)] for one in self.demonstrations])

    def batch(self, step: int, number: int) -> SequenceBatch:
        """The demonstrations beside mini-batch `number` of a step (both from 0)."""
        n = len(self.demonstrations)
        places = generator(self.seed, "ptx", step, number).choice(n, size=self.size, replace=n < self.size)
        drawn = [self.demonstrations[i] for i in places]
        return self.policy.batch([one.prompt for one in drawn], [one.completion for one in drawn])
