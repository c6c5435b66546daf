"""Online DPO: the policy draws completions, the reward says which is better, and the pair is trained on at once.

Papers: Guo et al. 2024 (arXiv:2402.04792); the losses: Rafailov et al. 2023 (arXiv:2305.18290), for `ipo` Azar et al.
2023 (arXiv:2310.12036).

Objective: minimise -log sigmoid(beta * (h_w - h_l)), h = log pi(y | x) - log ref(y | x), where y_w has the highest and
y_l the lowest reward of the completions of a prompt. Equal rewards are no pair, and train nothing.

Aggregation: mean over pairs, log-probabilities are sums over tokens. No ratio, no standard deviation. KL: by beta, as
in DPO; a `kl_coef` above 0 is a penalty besides, in the reward that orders the pair or in the loss. Differences from
the paper: the reward is the judge, and of more than two completions the best stands against the worst.
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
class OnlineDPO(OnPolicyMethod):
    """DPO on pairs of the present policy; the reference is the policy before training."""

    completions_per_prompt: Annotated[int, Field(ge=2)] = 2
    """Completions of each prompt, of which the best and the worst are a pair."""
    beta: Positive = 0.1
    """Strength of the pull to the reference: the weight of the KL term in the objective that DPO solves."""
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """-log sigmoid(beta * difference), or (difference - 1 / (2 * beta))^2."""
    kl_coef: NonNegative = 0.0
    """Weight of a KL penalty beside beta."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("mini_batch_size", self.mini_batch_size), ("micro_batch_size", self.rows_at_once)):
            if value % 2:
                raise ValueError(f"{name}: got {value}, expected an even number: both completions of a pair")
        self.require_whole_distributions("the loss compares whole distributions with the reference")

    @property
    def loss_aggregation(self) -> Aggregation:
        """The loss of a pair is one number."""
        return "token_sums"

    @property
    def rows_together(self) -> int:
        """A pair."""
        return 2

    @property
    def rows_of_an_update(self) -> int:
        """A pair of each group."""
        return 2 * (self.batch_size // self.group_size)

    def cautions(self) -> list[str]:
        """As of every method; without a KL penalty beta holds the policy."""
        return super().cautions() if self.kl_coef else []

    def chosen(self, rollout: Rollout, kl_coef: float) -> Rollout:
        """Of each prompt the best completion, and the worst beside it."""
        import torch

        from alignbench.methods.on_policy.groups import best_and_worst, kl_of_completions, rows_of_groups

        k = self.group_size
        worth = (rollout.rewards - kl_coef * kl_of_completions(rollout)).view(-1, k)
        best, worst, differ = best_and_worst(worth, rollout.mask.any(dim=1).view(-1, k))
        return rows_of_groups(rollout, torch.stack([best, worst], dim=1), k, differ)

    def targets(self, rollout: Rollout, kl_coef: float) -> Targets:
        """1 at the tokens of the better completions, -1 at those of the worse ones."""
        from alignbench.methods.on_policy.advantages import Targets

        signs = rollout.mask.float()
        signs[1::2] *= -1
        return Targets(signs)

    def policy_loss(self, logprobs: Tensor, rollout: Rollout, targets: Targets) -> tuple[Tensor, Tensor]:
        """The loss of its pair at every completion, spread evenly over its tokens."""
        from alignbench.methods.on_policy.losses import pair_loss

        log_ratios = ((logprobs - rollout.reference_logprobs) * targets.advantages).sum(dim=1)
        losses = pair_loss(log_ratios.view(-1, 2).sum(dim=1), self.beta, self.loss).repeat_interleave(2)
        n_tokens = rollout.mask.sum(dim=1, keepdim=True).clamp(min=1)
        spread = (losses.unsqueeze(1) / n_tokens).expand_as(logprobs)
        return spread, rollout.mask.new_zeros(rollout.mask.shape)


plugin = OnlineDPO
