"""Group-relative policy optimisation: rewards standardised within the completions of a prompt, without a value model.

Papers: Shao et al. 2024 (arXiv:2402.03300); Dr. GRPO: Liu et al. 2025 (arXiv:2503.20783); DAPO's aggregation: Yu et al.
2025 (arXiv:2503.14476).

Objective: maximise E[r(x, y)] less kl_coef times the KL to the reference, by the clipped surrogate loss of PPO with
A_i = (r_i - mean) / (std + 1e-4) over the k completions of a prompt, the same at every token.

Aggregation: `aggregation`, mean over completions of the mean over tokens. Ratio: of each token. Standard deviation:
divisor k - 1. KL: k1 in the reward, centred in the group and never divided by its standard deviation; the paper's is
`kl_placement: loss` with `kl_estimator: k3`. Dr. GRPO is `scale_rewards: none` with `aggregation: constant` and
`kl_coef: 0`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from alignbench.methods.on_policy.config import Aggregation, NonNegative, Positive
from alignbench.methods.on_policy_run import OnPolicyMethod

if TYPE_CHECKING:
    from alignbench.methods.on_policy.advantages import Targets
    from alignbench.methods.on_policy.rollout import Rollout


@dataclass(frozen=True)
class GRPO(OnPolicyMethod):
    """GRPO, and with other options Dr. GRPO; the reference is the policy before training."""

    completions_per_prompt: Annotated[int, Field(ge=2)] = 8
    """Completions of each prompt, k: a group."""
    kl_coef: NonNegative = 0.04
    """Weight of the KL penalty; the start value where `kl_target` is set."""
    clip_range: Positive = 0.2
    """How far the probability ratio may leave 1 before its gradient is cut."""
    scale_rewards: Literal["group", "none"] = "group"
    """What centred rewards are divided by: the standard deviation of their group, or nothing (Dr. GRPO)."""
    aggregation: Aggregation = "sequences"
    """`sequences`: mean over completions of the mean over tokens. `tokens`: mean over all tokens (DAPO). `token_sums`:
    mean over completions of the sum over tokens. `constant`: that sum over the token limit (Dr. GRPO)."""

    @property
    def loss_aggregation(self) -> Aggregation:
        """As it is set."""
        return self.aggregation

    def targets(self, rollout: Rollout, kl_coef: float) -> Targets:
        """Rewards as they stand in their group, the same at every token of a completion."""
        from alignbench.methods.on_policy.advantages import Targets
        from alignbench.methods.on_policy.groups import centred, kl_of_completions, standardised

        k = self.group_size
        rewards, kl, scored = (
            part.view(-1, k) for part in (rollout.rewards, kl_of_completions(rollout), rollout.mask.any(dim=1))
        )
        of_reward = standardised(rewards, scored) if self.scale_rewards == "group" else centred(rewards, scored)
        advantages = of_reward - kl_coef * centred(kl, scored)
        return Targets(advantages.view(-1, 1) * rollout.mask)


plugin = GRPO
