"""Which prompts a scorer could not read from their beginning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from alignbench.records import Scorer


@runtime_checkable
class CutsPrompts(Protocol):
    """A scorer that reads no more than so many tokens: where prompt and completion are more, the prompt gives way."""

    def cut_prompts(self, prompts: Sequence[str], completions: Sequence[str]) -> list[bool]:
        """True for each completion that is scored behind a prompt without its beginning."""
        ...


def cut_prompts(scorer: Scorer, prompts: Sequence[str], completions: Sequence[str]) -> list[bool]:
    """Which completions a scorer reads behind a prompt that has lost its beginning; none where it has no limit."""
    return scorer.cut_prompts(prompts, completions) if isinstance(scorer, CutsPrompts) else [False] * len(completions)
