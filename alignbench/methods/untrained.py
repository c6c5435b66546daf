"""The policy as it is: the row that every method is compared with.

Objective: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from alignbench.methods.base import Facts, RunContext, TrainData

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel


@dataclass(frozen=True)
class Untrained:
    """No training. Has no hyperparameters."""

    facts: ClassVar[Facts] = Facts(architectures=frozenset({"causal", "seq2seq"}), several_processes=True)

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Returns the policy unchanged."""
        return run.policy


plugin = Untrained
