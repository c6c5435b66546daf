"""How many completions are drawn at once where nobody says it: as many as have room for what decoding keeps of them.

A step of decoding costs a small model much the same for 500 completions as for one, so more at once is faster, up to
where keys and values fill the memory that other things need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from alignbench.models.forward import base_model

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel

LEAST_AT_ONCE, MOST_AT_ONCE = 32, 512
ROOM_ON_CPU = 2**29
"""Bytes; on a GPU it is a sixteenth of its memory."""
_COPIES = 4
"""Of the logits of a step: as they are, as probabilities, sorted and kept where top-p cuts."""


def completions_at_once(policy: LanguageModel, n_tokens: int) -> int:
    """Sequences of this many tokens, prompt and completion together, to decode at once."""
    return min(MOST_AT_ONCE, max(LEAST_AT_ONCE, _room(policy.device) // bytes_of_row(policy, n_tokens)))


def bytes_of_row(policy: LanguageModel, n_tokens: int) -> int:
    """Keys and values of one sequence, as if every head had its own, and the logits of a step."""
    config = base_model(policy.model).config.get_text_config(decoder=True)
    dtype = next(policy.model.parameters()).dtype
    width = getattr(config, "num_hidden_layers", 0) * getattr(config, "hidden_size", 0)
    # A family that says neither is taken for a large one.
    cache = 2 * n_tokens * width * dtype.itemsize or ROOM_ON_CPU
    return cache + 4 * _COPIES * getattr(config, "vocab_size", 0)


def _room(device: torch.device) -> int:
    if device.type != "cuda":
        return ROOM_ON_CPU
    return torch.cuda.get_device_properties(device).total_memory // 16
