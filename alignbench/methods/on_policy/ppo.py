"""What PPO adds to the engine: values, and advantages by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignbench.methods.on_policy.advantages import Targets, generalised_advantages
from alignbench.methods.on_policy.objective import Objective
from alignbench.methods.on_policy.rewards import token_rewards, whiten

if TYPE_CHECKING:
    from alignbench.methods.on_policy.config import PPOConfig
    from alignbench.methods.on_policy.rollout import Rollout


class PPOObjective(Objective):
    """Generalised advantages, and the clipped loss."""

    def __init__(self, config: PPOConfig) -> None:
        self.config, self.clip_range = config, config.clip_range

    def targets(self, rollout: Rollout, kl_coef: float) -> Targets:
        """Token rewards with the KL penalty on every token, then advantages and returns; whitened where asked for."""
        config, mask = self.config, rollout.batch.completion_mask
        assert rollout.values is not None
        rewards = token_rewards(rollout.rewards, rollout.kl, mask, kl_coef)
        if config.whiten_rewards:
            rewards = whiten(rewards, rollout.mask, center=False)
        advantages, returns = generalised_advantages(rewards, rollout.values, mask, config.gamma, config.gae_lambda)
        if config.whiten_advantages:
            advantages = whiten(advantages, rollout.mask, center=True)
        return Targets(advantages, returns)
