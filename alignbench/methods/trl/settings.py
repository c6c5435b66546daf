"""The hyperparameters that every method on a TRL trainer has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True)
class TrainerSettings:
    """Optimizer settings of a method that trains on stored rows: preference pairs, or completions."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    """Peak learning rate of AdamW; decays linearly to 0."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Pairs, or completions, behind one optimizer step."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Pairs, or completions, in one forward and backward pass; None is the batch. Changes memory; the update of
    methods on pairs only where the last batch is not full, since TRL weighs pairs by micro-batch."""
    epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the pairs, or completions."""

    @property
    def rows_at_once(self) -> int:
        """Rows of training data in one pass."""
        return self.micro_batch_size or self.batch_size

    def __post_init__(self) -> None:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} must divide batch_size {self.batch_size}")


@dataclass(frozen=True)
class ImitationSettings(TrainerSettings):
    """The same for methods that imitate completions."""

    packing: bool = False
    """Lay the texts of a pass end to end in one row instead of padding them, which saves the padding. Every step has
    the same texts, and every token the same loss; families in which a text would see the one before it are refused."""
