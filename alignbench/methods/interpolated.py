"""A point between the weights of the policy and those of a trained run.

Papers: Wortsman et al. 2021 (arXiv:2109.01903) between a model and its fine-tune; Rame et al. 2023 (arXiv:2306.04488)
between policies of different rewards.

Objective: theta = (1 - weight) theta_policy + weight theta_other, where the other is the run that `builds_on` names as
`other`. No step is taken. A suite with one entry for each of several weights is a grid, and its frontier is what
`compare` shows of them.

Differences from the papers: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from alignbench.methods.base import Facts, RunContext, TrainData

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel

ROLE = "other"


@dataclass(frozen=True)
class Interpolated:
    """The policy on the way to another run's."""

    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How far: 0 is the policy, 1 the other one, each bit for bit."""

    facts: ClassVar[Facts] = Facts(architectures=frozenset({"causal", "seq2seq"}), roles=frozenset({"policy", ROLE}))

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Returns the policy with its weights moved."""
        from alignbench.models.weight_arithmetic import mix

        mix(run.policy, run.load_language_model(ROLE), self.weight, ROLE)
        return run.policy


plugin = Interpolated
