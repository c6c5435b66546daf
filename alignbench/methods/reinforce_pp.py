"""REINFORCE++: rewards to go, standardised over the tokens of the whole batch, without a value model.

Paper: Hu 2025 (arXiv:2501.03262).

Objective: maximise E[r(x, y)] - kl_coef * KL(pi(y | x) || ref(y | x)), by the clipped surrogate loss of PPO with
A_t = r - kl_coef * sum of the KL of the tokens from t on, then (A_t - mean) / std over all tokens of the batch. With
`baseline: group` the mean reward of the prompt's completions is taken off r first.

Aggregation: mean over the tokens of a mini-batch. Ratio: of each token. Standard deviation: over tokens, divisor n.
KL: k1 in the reward; the paper's form with a baseline is `kl_placement: loss` with `kl_estimator: k2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from alignbench.methods.on_policy.config import Count, NonNegative, Positive
from alignbench.methods.on_policy_run import OnPolicyMethod

if TYPE_CHECKING:
    from alignbench.methods.on_policy.advantages import Targets
    from alignbench.methods.on_policy.rollout import Rollout


@dataclass(frozen=True)
class ReinforcePlusPlus(OnPolicyMethod):
    """REINFORCE++ with and without a baseline; the reference is the policy before training."""

    completions_per_prompt: Count = 1
    """Completions of each prompt; 2 or more where the baseline is the mean of a group."""
    kl_coef: NonNegative = 0.05
    """Weight of the KL penalty; the start value where `kl_target` is set."""
    clip_range: Positive = 0.2
    """How far the probability ratio may leave 1 before its gradient is cut."""
    baseline: Literal["none", "group"] = "none"
    """What is taken off each reward before advantages are standardised: nothing, or the mean of its group."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.baseline == "group" and self.completions_per_prompt < 2:
            raise ValueError(
                f"completions_per_prompt: got {self.completions_per_prompt} with baseline group, expected 2 or more"
            )

    def targets(self, rollout: Rollout, kl_coef: float) -> Targets:
        """Rewards to go, then standardised over the batch's tokens."""
        from alignbench.methods.on_policy.advantages import Targets, rewards_to_go
        from alignbench.methods.on_policy.groups import centred, kl_beyond_rounding
        from alignbench.methods.on_policy.rewards import token_rewards, whiten

        rewards, k = rollout.rewards, self.group_size
        if self.baseline == "group":
            rewards = centred(rewards.view(-1, k), rollout.mask.any(dim=1).view(-1, k)).flatten()
        kl = kl_beyond_rounding(rollout)
        of_tokens = token_rewards(rewards, kl, rollout.batch.completion_mask, kl_coef)
        return Targets(whiten(rewards_to_go(of_tokens) * rollout.mask, rollout.mask, center=True))


plugin = ReinforcePlusPlus
