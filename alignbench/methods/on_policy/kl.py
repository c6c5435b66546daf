"""KL to the reference: per-token estimators, and the controllers of its weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor


def k1(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Log pi - log ref on sampled tokens, (b, t): unbiased, can be negative.

    Source: Schulman 2020, "Approximating KL divergence".
    """
    return logprobs - reference_logprobs


def k2(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """k1^2 / 2 on sampled tokens, (b, t): biased, never negative; unbiased in its gradient (Schulman 2020)."""
    return 0.5 * (logprobs - reference_logprobs) ** 2


def k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """exp(-k1) - 1 + k1 on sampled tokens, (b, t): unbiased, never negative, less noisy (Schulman 2020)."""
    difference = logprobs - reference_logprobs
    return torch.expm1(-difference) + difference


ROUNDING = 1e-4
"""Nats by which two passes over one token may differ: by float32, other kernels and other lengths of padding."""
ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


def exact_kl(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """KL(pi || ref) of the next-token distributions in nats, from logits (b, t, V): (b, t)."""
    logprobs = logits.log_softmax(dim=-1)
    return (logprobs.exp() * (logprobs - reference_logits.log_softmax(dim=-1))).sum(dim=-1)


def has_moved(logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor) -> Tensor:
    """True where of the sampled tokens, (b, t), one or more has another probability than rounding explains: a scalar.

    Before the first update, and for as long as no reward tells completions apart, the policy is its reference.
    """
    return ((logprobs - reference_logprobs).abs() * mask).max() > ROUNDING


class KLController:
    """The weight of the KL penalty: fixed, or adapted to a target (Ziegler et al. 2019, section 2.2).

    change = clip(kl / target - 1, -0.2, 0.2) * n / horizon
    linear: coef <- coef * (1 + change);  log: coef <- coef * exp(change)

    `kl` is in nats per completion, `n` the number of completions since the last update. In the logarithm equal
    steps up and down cancel, and the weight stays positive however short the horizon.
    """

    def __init__(
        self, coef: float, target: float | None, horizon: float, form: Literal["linear", "log"] = "linear"
    ) -> None:
        self.coef = coef
        self.target = target
        self.horizon = horizon
        self.form = form

    def update(self, kl: float, n: int) -> None:
        """Adapts the coefficient after a step on `n` completions; does nothing where it is fixed."""
        if self.target is None:
            return
        change = min(max(kl / self.target - 1, -0.2), 0.2) * n / self.horizon
        self.coef *= 1 + change if self.form == "linear" else math.exp(change)
