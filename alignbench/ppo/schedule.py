"""The learning rate over a run."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate_factor(
    step: int, n_steps: int, schedule: Literal["constant", "linear", "cosine"], warmup_steps: int
) -> float:
    """What the learning rate is multiplied by in PPO step `step` (from 0) of `n_steps`; resume needs no state of it.

    It rises over `warmup_steps` by (step + 1) / (warmup_steps + 1), then stays, or falls to 0 behind the last step:
    linear 1 - x, cosine (1 + cos(pi x)) / 2 (Loshchilov and Hutter 2017), x the share of the remaining steps done.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    x = (step - warmup_steps) / max(1, n_steps - warmup_steps)
    return 1 - x if schedule == "linear" else (1 + math.cos(math.pi * x)) / 2
