"""Batches preference pairs by the exact tokens that were sampled.

TRL's own preparation encodes texts, which need not give the sampled tokens back, and it appends an end-of-sequence
token to completions that were cut at their token limit. A collator of one's own is part of its public interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alignbench.models.language_model import LanguageModel
from alignbench.records import PreferencePair


def preference_rows(pairs: Sequence[PreferencePair], policy: LanguageModel) -> list[dict[str, Any]]:
    """One row per pair: under `sampled` the tokens that are trained on; the texts TRL insists on stay empty."""
    return [
        {
            "prompt": "",
            "chosen": "",
            "rejected": "",
            "sampled": {
                "prompt": policy.encode_prompt(pair.prompt),
                "chosen": list(pair.chosen.token_ids),
                "rejected": list(pair.rejected.token_ids),
            },
        }
        for pair in pairs
    ]


@dataclass(frozen=True)
class SampledTokensCollator:
    """Lays b pairs into (2b, s) tensors, padded on the right: first all chosen, then all rejected."""

    pad_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `input_ids`, `attention_mask` and `completion_mask`, each (2b, s)."""
        prompts = [row["sampled"]["prompt"] for row in rows] * 2
        completions = [row["sampled"][kind] for kind in ("chosen", "rejected") for row in rows]
        width = max(len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True))
        ids, attention, completion_masks = [], [], []
        for prompt, completion in zip(prompts, completions, strict=True):
            n = len(prompt) + len(completion)
            ids.append([*prompt, *completion, *[self.pad_id] * (width - n)])
            attention.append([1] * n + [0] * (width - n))
            completion_masks.append([0] * len(prompt) + [1] * len(completion) + [0] * (width - n))
        return {
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.tensor(attention),
            "completion_mask": torch.tensor(completion_masks),
        }
