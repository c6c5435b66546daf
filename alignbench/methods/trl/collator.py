"""Batches preference pairs, and labelled completions, by the exact tokens that were sampled.

TRL's own preparation encodes texts, which need not give the sampled tokens back, and it appends an end-of-sequence
token to completions that were cut at their token limit. A collator of one's own is part of its public interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alignbench.models.language_model import LanguageModel
from alignbench.records import LabelledCompletion, PreferencePair


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
        """Returns `input_ids`, `attention_mask` and `completion_mask`, each (2b, s).

        With them, (b,) each, what the trainer has asked the reference before: `ref_chosen_logps`, `ref_rejected_logps`.
        """
        prompts = [row["sampled"]["prompt"] for row in rows] * 2
        completions = [row["sampled"][kind] for kind in ("chosen", "rejected") for row in rows]
        known = [name for name in ("ref_chosen_logps", "ref_rejected_logps") if name in rows[0]]
        asked = {name: torch.tensor([row[name] for row in rows]) for name in known}
        return _padded(prompts, completions, self.pad_id) | asked


def labelled_rows(labelled: Sequence[LabelledCompletion], policy: LanguageModel) -> list[dict[str, Any]]:
    """One row per labelled completion, like `preference_rows`."""
    return [
        {
            "prompt": "",
            "completion": "",
            "label": one.is_wanted,
            "sampled": {"prompt": policy.encode_prompt(one.prompt), "completion": list(one.completion.token_ids)},
        }
        for one in labelled
    ]


@dataclass(frozen=True)
class LabelledTokensCollator:
    """Lays b labelled completions out for `trl.KTOTrainer`: with their own prompts, and with their neighbours'."""

    pad_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `label` (b,), and ids and masks (b, s), those of the neighbours' completions under `KL_`."""
        prompts, completions = ([row["sampled"][kind] for row in rows] for kind in ("prompt", "completion"))
        neighbours = [completions[-1], *completions[:-1]]
        batch = {f"KL_{name}": tensor for name, tensor in _padded(prompts, neighbours, self.pad_id).items()}
        return _padded(prompts, completions, self.pad_id) | batch | {"label": torch.tensor([r["label"] for r in rows])}


def _padded(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad_id: int
) -> dict[str, torch.Tensor]:
    """Prompts with completions, padded on the right: `input_ids`, `attention_mask`, `completion_mask`, each (b, s)."""
    width = max(len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True))
    ids, attention, completion_masks = [], [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        n = len(prompt) + len(completion)
        ids.append([*prompt, *completion, *[pad_id] * (width - n)])
        attention.append([1] * n + [0] * (width - n))
        completion_masks.append([0] * len(prompt) + [1] * len(completion) + [0] * (width - n))
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(attention),
        "completion_mask": torch.tensor(completion_masks),
    }
