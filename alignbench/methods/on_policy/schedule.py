"""The optimizer, and its learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch

from alignbench.models.quantization import require_bitsandbytes

if TYPE_CHECKING:
    from torch import nn

    from alignbench.methods.on_policy.config import OnPolicyConfig


def adamw(parameters: Mapping[str, nn.Parameter], config: OnPolicyConfig) -> torch.optim.Optimizer:
    """AdamW over the policy and, as a second group with a learning rate of its own, what computes values.

    In 8 bits it is blockwise (Dettmers et al. 2022, arXiv:2110.02861); tensors of less than 4096 numbers keep 32.
    """
    of_values = {name for name in parameters if name.startswith("value_")}
    of_their_own = config.values.value_learning_rate if config.values is not None else None
    rates = {False: config.learning_rate, True: of_their_own or config.learning_rate}
    groups = [
        {"params": [p for name, p in parameters.items() if (name in of_values) == is_value], "lr": lr, "initial_lr": lr}
        for is_value, lr in rates.items()
    ]
    options: dict[str, Any] = {
        "betas": config.adam_betas,
        "eps": config.adam_epsilon,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, **options, fused=True)
    require_bitsandbytes("method.optimizer", config.optimizer)
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups, **options)  # type: ignore[no-any-return]


def learning_rate_factor(
    step: int, n_steps: int, schedule: Literal["constant", "linear", "cosine"], warmup_steps: int
) -> float:
    """What the learning rate is multiplied by in step `step` (from 0) of `n_steps`; resume needs no state of it.

    It rises over `warmup_steps` by (step + 1) / (warmup_steps + 1), then stays, or falls to 0 after the last step:
    linear 1 - x, cosine (1 + cos(pi x)) / 2 (Loshchilov and Hutter 2017), x the share of the remaining steps done.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    x = (step - warmup_steps) / max(1, n_steps - warmup_steps)
    return 1 - x if schedule == "linear" else (1 + math.cos(math.pi * x)) / 2
