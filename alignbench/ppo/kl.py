"""KL to the reference: per-token estimators, and the controllers of its weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def k1(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Log pi - log ref on sampled tokens, (b, t): unbiased, can be negative.

    Source: Schulman 2020, "Approximating KL divergence".
    """
    return logprobs - reference_logprobs


def k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """exp(-k1) - 1 + k1 on sampled tokens, (b, t): unbiased, never negative, less noisy (Schulman 2020)."""
    difference = logprobs - reference_logprobs
    return torch.expm1(-difference) + difference


class KLController:
    """The weight of the KL penalty: fixed, or adapted to a target (Ziegler et al. 2019, section 2.2).

    error = clip(kl / target - 1, -0.2, 0.2);  coef <- coef * (1 + error * n / horizon)

    `kl` is in nats per completion, `n` the number of completions since the last update.
    """

    def __init__(self, coef: float, target: float | None, horizon: float) -> None:
        self.coef = coef
        self.target = target
        self.horizon = horizon

    def update(self, kl: float, n: int) -> None:
        """Adapts the coefficient after a step on `n` completions; does nothing where it is fixed."""
        if self.target is None:
            return
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * n / self.horizon
