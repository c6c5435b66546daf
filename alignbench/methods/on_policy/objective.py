"""What one method asks of the engine; everything else is the same for all of them. Imports no torch by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.methods.on_policy.advantages import Targets
    from alignbench.methods.on_policy.rollout import Rollout


class Objective:
    """Advantages and a loss. Shapes: b completions of up to t tokens. The loss is PPO's where a method has no other."""

    clip_range: float

    def chosen(self, rollout: Rollout, kl_coef: float) -> Rollout:
        """The part of a step's rollout that is trained on, `rows_of_an_update` completions: all, unless overridden.

        Its mask is False on what is not trained on. `kl_coef` weighs the KL in the rewards; it is 0 where the penalty
        is in the loss.
        """
        return rollout

    def targets(self, rollout: Rollout, kl_coef: float) -> Targets:
        """Advantages of what was chosen, and returns where there are values to be trained."""
        raise NotImplementedError

    def policy_loss(self, logprobs: Tensor, rollout: Rollout, targets: Targets) -> tuple[Tensor, Tensor]:
        """The loss of each token by its present log-probability, and where its ratio was clipped, both (b, t)."""
        from alignbench.methods.on_policy.losses import policy_loss

        return policy_loss(logprobs, rollout.logprobs, targets.advantages, self.clip_range)
