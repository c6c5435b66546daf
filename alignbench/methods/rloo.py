"""REINFORCE with a leave-one-out baseline: each completion against the others of its prompt, without a value model.

Papers: Ahmadian et al. 2024 (arXiv:2402.14740); Kool et al. 2019 (the baseline).

Objective: maximise E[r(x, y)] - kl_coef * KL(pi(y | x) || ref(y | x)). With R_i = r_i - kl_coef * KL_i of k completions
of a prompt, A_i = R_i - mean of the other k - 1; the loss of a completion is max(-A_i rho_i, -A_i clip(rho_i)), with
rho_i = pi(y_i | x) / pi_old(y_i | x) of the whole completion.

Aggregation: mean over completions of the sum over tokens. Ratio: of the sequence. No standard deviation. KL: k1 in the
reward. Difference from the paper: the ratio is clipped, as in TRL, because a batch is gone through in mini-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from alignbench.methods.on_policy.config import Aggregation, NonNegative, Positive
from alignbench.methods.on_policy_run import OnPolicyMethod

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.methods.on_policy.advantages import Targets
    from alignbench.methods.on_policy.rollout import Rollout


@dataclass(frozen=True)
class RLOO(OnPolicyMethod):
    """RLOO; the reference is the policy before training."""

    completions_per_prompt: Annotated[int, Field(ge=2)] = 4
    """Completions of each prompt, k: each is compared with the others."""
    kl_coef: NonNegative = 0.05
    """Weight of the KL penalty; the start value where `kl_target` is set."""
    clip_range: Positive = 0.2
    """How far the probability ratio may leave 1 before its gradient is cut."""
    ratio: Literal["sequence", "token"] = "sequence"
    """Whether the clipped ratio is that of a whole completion, or of each token."""
    normalize_advantages: bool = False
    """Shift the batch's advantages to mean 0 and divide them by their sample standard deviation + 1e-4, as TRL can."""

    @property
    def loss_aggregation(self) -> Aggregation:
        """The log-probability of a completion is a sum."""
        return "token_sums"

    def targets(self, rollout: Rollout, kl_coef: float) -> Targets:
        """Leave-one-out advantages, the same at every token of a completion."""
        from alignbench.methods.on_policy.advantages import Targets
        from alignbench.methods.on_policy.groups import kl_of_completions, leave_one_out

        scored, k = rollout.mask.any(dim=1), self.group_size
        parts = (rollout.rewards, kl_of_completions(rollout))
        of_reward, of_kl = (leave_one_out(part.view(-1, k), scored.view(-1, k)).flatten() for part in parts)
        advantages = of_reward - kl_coef * of_kl
        if self.normalize_advantages:
            of_scored = advantages[scored]
            advantages = (advantages - of_scored.mean()) / (of_scored.std() + 1e-4)
        return Targets(advantages.unsqueeze(1) * rollout.mask)

    def policy_loss(self, logprobs: Tensor, rollout: Rollout, targets: Targets) -> tuple[Tensor, Tensor]:
        """The clipped loss, by the ratio of the sequence or of each token."""
        from alignbench.methods.on_policy.losses import policy_loss, sequence_policy_loss

        if self.ratio == "token":
            return policy_loss(logprobs, rollout.logprobs, targets.advantages, self.clip_range)
        return sequence_policy_loss(logprobs, rollout.logprobs, rollout.mask, targets.advantages, self.clip_range)


plugin = RLOO
