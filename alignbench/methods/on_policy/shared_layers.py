"""Frozen bottom layers that policy and reference share, and whose activations need computing only once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from alignbench.errors import ModelError
from alignbench.models.forward import base_model

if TYPE_CHECKING:
    from torch import Tensor


class SharedLayers:
    """The embeddings and the first `n` blocks of a causal model, frozen.

    Their output is recorded in one forward pass and replayed in later ones on the same rows: the blocks then return
    what was recorded instead of computing it. Nothing else of a forward pass changes, whatever the model family.
    """

    def __init__(self, model: Any, n: int) -> None:
        blocks = layers_of(model)
        if n >= len(blocks):
            raise ModelError(
                f"shared_layers: got {n}, expected fewer than the model's {len(blocks)} layers, or nothing is trained"
            )
        self.blocks = blocks[:n]
        self._is_tuple = False
        for parameter in self._used_below(model):
            parameter.requires_grad_(False)

    def _used_below(self, model: Any) -> list[nn.Parameter]:
        """The trainable parameters that the output of the last shared block depends on."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        token = torch.zeros((1, 1), dtype=torch.long, device=next(model.parameters()).device)
        with torch.enable_grad(), self.recorded() as outputs:
            model(input_ids=token, attention_mask=torch.ones_like(token), use_cache=False)
        if not outputs[0].requires_grad:  # adapters above the shared layers only
            return []
        gradients = torch.autograd.grad(outputs[0].sum(), parameters, allow_unused=True)
        return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """Within the block every forward pass appends the shared layers' output, (b, s, h), to the yielded list."""
        outputs: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: object, output: Any) -> None:
            self._is_tuple = isinstance(output, tuple)
            outputs.append(output[0] if self._is_tuple else output)

        handle = self.blocks[-1].register_forward_hook(keep)
        try:
            yield outputs
        finally:
            handle.remove()

    @contextmanager
    def replayed(self, hidden: Tensor) -> Iterator[None]:
        """Within the block the shared layers answer with `hidden`, (b, s, h), recorded for the same rows."""
        answer = (hidden,) if self._is_tuple else hidden
        for block in self.blocks:
            block.forward = lambda *_args, **_kwargs: answer
        try:
            yield
        finally:
            for block in self.blocks:
                del block.forward


def layers_of(model: Any) -> nn.ModuleList:
    """The blocks of a causal model from the bottom up; ModelError where they cannot be told."""
    inner = base_model(model)
    n_layers = inner.config.num_hidden_layers
    for module in inner.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            return module
    raise ModelError(f"shared_layers: found no list of {n_layers} layers in {type(inner).__name__}; set it to 0")
