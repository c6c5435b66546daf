"""The hyperparameters that every method on ranked completions has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from alignbench.identity import NotIdentity
from alignbench.methods.trl.settings import TrainerSettings


@dataclass(frozen=True)
class RankingSettings(TrainerSettings):
    """Optimizer settings, as those of methods on TRL; a batch holds prompts, each with its ranked completions."""

    micro_batch_size: Annotated[
        Annotated[int, Field(ge=1)] | None, NotIdentity("prompts in a pass; the update is of a batch")
    ] = None
    """Prompts in one forward and backward pass; None is the batch. Changes memory, not the update."""
    gradient_checkpointing: Annotated[bool, NotIdentity("memory against time")] = False
    """Compute activations a second time in the backward pass, instead of keeping them."""
    checkpoint_every: Annotated[int, Field(ge=1), NotIdentity("how much work a kill can cost")] = 50
    """Steps between checkpoints."""
