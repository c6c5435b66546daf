"""The hyperparameters of PPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters of PPO with a KL penalty."""

    learning_rate: Positive = 1.41e-5
    """Learning rate of AdamW, constant."""
    batch_size: Count = 64
    """Completions sampled for one PPO step."""
    mini_batch_size: Count = 16
    """Completions behind one optimizer step."""
    micro_batch_size: Count | None = None
    """Completions in one forward and backward pass; None is the mini-batch. Changes memory, not the update."""
    ppo_epochs: Count = 4
    """Passes over the sampled batch in one PPO step."""
    completion_tokens: Annotated[tuple[Count, Count], Field(strict=False)] = (20, 30)
    """Shortest and longest token limit; every completion draws its own limit, both ends included."""
    temperature: Positive = 1.0
    """Sampling temperature; log-probabilities are those of the distribution at this temperature."""
    kl_coef: NonNegative = 0.2
    """Weight of the per-token KL penalty; the start value where `kl_target` is set."""
    kl_target: Positive | None = 6.0
    """Target of the adaptive controller in nats per completion; None keeps `kl_coef` fixed."""
    kl_horizon: Positive = 10_000.0
    """Completions over which the adaptive controller reacts."""
    gamma: UnitInterval = 1.0
    """Discount."""
    gae_lambda: UnitInterval = 0.95
    """Lambda of generalised advantage estimation."""
    clip_range: Positive = 0.2
    """How far the probability ratio may leave 1 before its gradient is cut."""
    value_clip_range: Positive = 0.2
    """How far a new value may leave the old one before its gradient is cut."""
    value_coef: NonNegative = 0.1
    """Weight of the value loss."""
    whiten_advantages: bool = True
    """Shift advantages to mean 0 and scale them to variance 1 over the batch's completion tokens."""
    whiten_rewards: bool = False
    """Scale token rewards to variance 1 over the batch, keeping their mean."""
    max_grad_norm: Positive = 1.0
    """Longest gradient before it is scaled down."""
    adam_epsilon: Positive = 1e-8
    """Epsilon of AdamW."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay of AdamW."""
    checkpoint_every: Count = 10
    """PPO steps between checkpoints."""

    def __post_init__(self) -> None:
        if self.batch_size % self.mini_batch_size:
            raise ValueError(f"mini_batch_size {self.mini_batch_size} must divide batch_size {self.batch_size}")
        if self.micro_batch_size is not None and self.mini_batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} must divide mini_batch_size {self.mini_batch_size}"
            )
        shortest, longest = self.completion_tokens
        if shortest > longest:
            raise ValueError(f"completion_tokens [{shortest}, {longest}] must be [shortest, longest]")
