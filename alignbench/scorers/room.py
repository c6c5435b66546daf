"""Whether the classifiers of a score can read completions as long as they may become: known before any is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignbench.records import Prompt, Scorer
from alignbench.scorers.base import parts_of
from alignbench.scorers.text_classifier import ClassifierScorer

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel

_SAMPLE = 200
"""Prompts that tell how many tokens of one tokenizer are one of another."""


def without_room(scorer: Scorer, policy: LanguageModel, prompts: Sequence[Prompt], n_new_tokens: int) -> list[str]:
    """Says of each classifier of a score that it has no room for a completion of so many tokens of the policy.

    Their number in the classifier's own tokens is estimated from the prompts.
    """
    sample = [prompt.text for prompt in prompts[:_SAMPLE]]
    n_theirs = sum(len(policy.text_tokenizer.encode(text)) for text in sample)
    said = []
    for one in (part for part in parts_of(scorer) if isinstance(part, ClassifierScorer)):
        n_own = sum(len(one.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in sample)
        needed = math.ceil(n_new_tokens * n_own / max(1, n_theirs))
        room = one.reader.limit - one.reader.n_tokens("", "")
        if needed > room:
            said.append(
                f"a completion of {n_new_tokens} tokens is about {needed} tokens of the classifier {one.name!r}, which "
                f"reads {room}; longer ones get no score"
            )
    return said
