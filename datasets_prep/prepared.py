"""What data preparation gives: prompts in splits, those of an evaluation, and what became of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from alignbench.records import Prompt


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Prompts ready for use. The three splits are disjoint in id and in text."""

    train: tuple[Prompt, ...]
    validation: tuple[Prompt, ...]
    heldout: tuple[Prompt, ...]
    fingerprint: str
    """Hash of settings, raw content and the version of the preparation code."""
    statistics: Mapping[str, int | float] = field(default_factory=dict)
    """Counts for the user: rows read, rows skipped and why, rows per split."""


@dataclass(frozen=True, slots=True)
class PromptRows:
    """What became of the rows of the source that an evaluation's prompts come from."""

    n_rows: int
    """Rows read; of data that are split, of all splits together."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Rows that serve in no split, by the reason in words."""
    longest_prompt: int | None = None
    """The longest prompt in tokens that the policy's context allows; None where it sets no limit."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The prompts of an evaluation, and what became of the others."""

    prompts: tuple[Prompt, ...]
    rows: PromptRows
