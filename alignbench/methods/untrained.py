"""The policy as it is: the row that every method is compared with.

Objective: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from alignbench.methods.base import Architecture, DataKind, RunContext, TrainData

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel


@dataclass(frozen=True)
class Untrained:
    """No training. Has no hyperparameters."""

    needs: ClassVar[frozenset[DataKind]] = frozenset()
    needs_reward: ClassVar[bool] = False
    architectures: ClassVar[frozenset[Architecture]] = frozenset({"causal", "seq2seq"})
    produces: ClassVar[Literal["policy"]] = "policy"
    takes_several_processes: ClassVar[bool] = True

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Returns the policy unchanged."""
        return run.policy


plugin = Untrained
