"""Two models on the same weights."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from alignbench.models.language_model import LanguageModel


def on_the_same_weights(policy: LanguageModel) -> LanguageModel:
    """Returns a model that reads the weights of `policy` and takes no gradients: while they are not changed in place.

    An adapter that is attached to `policy` later is none of its.
    """
    model = policy.model
    same: dict[int, Any] = {id(one): nn.Parameter(one.detach(), requires_grad=False) for one in model.parameters()}
    same |= {id(one): one for one in model.buffers()}
    other = copy.deepcopy(model, same)  # which takes what is in `same` for what it has copied already
    return LanguageModel(other.eval(), policy.tokenizer, policy.name, policy.chat, policy.batch_size)
