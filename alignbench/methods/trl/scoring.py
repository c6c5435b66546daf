"""Log-probabilities of given tokens for TRL's trainers, from the states of these tokens' positions alone.

TRL's trainers of pairs and labels give their models a forward pass of their own (`fused_lm_head`). On a CPU it
multiplies the states of all positions, prompts and padding too, with the output layer, a second time in the backward
pass, and takes entropies and mean logits along the way: with 262,144 words that was most of a step. What their losses
read is the log-probability of each token of a completion.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer

from alignbench.models.forward import base_model, token_logprobs
from alignbench.models.output_layer import OutputLayer, States, output_layer, rows_that_fit

IGNORED = -100
"""The label of a token that no loss is taken on."""


def labelled_logprobs(model: Any, states: Tensor, labels: Tensor, layer: OutputLayer) -> Tensor:
    """Log-probabilities in nats of the n labels (b, t) that are none of `IGNORED`, from states (b, t, h): (1, n).

    Without logits where these would be large, unless the output layer takes a gradient.
    """
    is_labelled = labels != IGNORED
    tokens, found = labels[is_labelled][None], States(states[is_labelled][None], layer)
    if _is_large(model, tokens) and not _takes_gradient(layer):
        return found.logprobs(tokens)
    return token_logprobs(found.logits(), tokens)


def score_completions_alone(model: Any) -> None:
    """Has a model that a TRL trainer has given a `fused_lm_head` score labelled tokens alone, on a CPU.

    On a GPU TRL does so itself. It is left to it, too, where the output layer must be run as it is (`output_layer`), or
    takes a gradient of logits that would be large, and where a mixture of experts is asked for the loss of its router.
    Entropies and mean logits, which TRL logs and we do not, are 0.
    """
    inner = base_model(model)
    whole = inner.forward
    does_so = inner.device.type != "cpu" or hasattr(whole, "layer")
    if does_so or (layer := output_layer(model)) is None:
        return

    @functools.wraps(whole)
    def forward(*args: Any, fused_lm_head: bool = False, labels: Tensor | None = None, **kwargs: Any) -> Any:
        is_theirs = not fused_lm_head or kwargs.get("output_router_logits")
        if is_theirs or labels is None or (_takes_gradient(layer) and _is_large(model, labels)):
            return whole(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)
        with layer.passed_by() as given:
            whole(*args, **kwargs)
        following = labels[:, 1:]
        logprobs = labelled_logprobs(model, given[0][:, :-1], following, layer)
        unused = torch.zeros_like(following, dtype=logprobs.dtype)
        found = unused.masked_scatter(following != IGNORED, logprobs)
        return SimpleNamespace(log_probs=found, entropy=unused, mean_logits=unused, is_top1=unused.bool())

    forward.layer = layer  # type: ignore[attr-defined]
    inner.forward = forward


class PairTrainer(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer, whose models score completions alone; the reference that is asked before training as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for model in filter(None, (self.model, self.ref_model)):
            score_completions_alone(model)

    def compute_ref_log_probs(self, model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of chosen and rejected completions by the reference, (b,) each."""
        score_completions_alone(model)
        return super().compute_ref_log_probs(model, inputs)  # type: ignore[no-any-return]


def _takes_gradient(layer: OutputLayer) -> bool:
    return torch.is_grad_enabled() and not layer.is_frozen


def _is_large(model: Any, tokens: Tensor) -> bool:
    return rows_that_fit(model, tokens.numel()) == 0
