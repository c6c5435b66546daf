"""Rejection sampling, iterated (RAFT): fine-tuning on the best of several completions of each prompt, step after step.

Paper: Dong et al. 2023 (arXiv:2304.06767).

Objective: minimise -log pi(y* | x), y* the completion with the highest reward of the k that the policy has just drawn
for x. With `completions_per_prompt: 1` it is fine-tuning on the policy's own samples.

Aggregation: mean over the tokens of a mini-batch. No ratio, no standard deviation. KL: k1 in the reward, so that it
counts when the best one is chosen, as in the paper; its weight is 0 unless set. Differences from the paper: a step is
an iteration, of `batch_size` completions; of equal rewards none is the best, and nothing is trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignbench.methods.on_policy.config import Count, NonNegative
from alignbench.methods.on_policy_run import OnPolicyMethod

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.methods.on_policy.advantages import Targets
    from alignbench.methods.on_policy.rollout import Rollout


@dataclass(frozen=True)
class RAFT(OnPolicyMethod):
    """Rejection sampling and fine-tuning by turns."""

    completions_per_prompt: Count = 8
    """Completions of each prompt, k, of which one is trained on."""
    mini_batch_size: Count = 8
    """Completions behind one optimizer step, of the `batch_size / completions_per_prompt` that are trained on."""
    kl_coef: NonNegative = 0.0
    """Weight of the KL penalty in the choice of the best, or in the loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_whole_distributions("what is imitated has to become likelier among all tokens")

    @property
    def rows_of_an_update(self) -> int:
        """One of each group."""
        return self.batch_size // self.group_size

    def cautions(self) -> list[str]:
        """As of every method; without a KL penalty the policy still leaves the reference slowly."""
        return super().cautions() if self.kl_coef else []

    def chosen(self, rollout: Rollout, kl_coef: float) -> Rollout:
        """The best completion of each prompt."""
        from alignbench.methods.on_policy.groups import best_and_worst, kl_of_completions, rows_of_groups

        k = self.group_size
        worth = (rollout.rewards - kl_coef * kl_of_completions(rollout)).view(-1, k)
        best, _, differ = best_and_worst(worth, rollout.mask.any(dim=1).view(-1, k))
        return rows_of_groups(rollout, best.unsqueeze(1), k, differ if k > 1 else best >= 0)

    def targets(self, rollout: Rollout, kl_coef: float) -> Targets:
        """All tokens weigh the same."""
        from alignbench.methods.on_policy.advantages import Targets

        return Targets(rollout.mask.float())

    def policy_loss(self, logprobs: Tensor, rollout: Rollout, targets: Targets) -> tuple[Tensor, Tensor]:
        """-log pi of each token."""
        return -logprobs, rollout.mask.new_zeros(rollout.mask.shape)


plugin = RAFT
