"""Sampling from a policy with a LoRA adapter at the price of one without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def can_merge(model: nn.Module) -> bool:
    """True where every adapted layer is a float32 matrix on a CPU with plain low-rank products beside it.

    A GPU decodes by a graph that is bound to the weights' addresses, and hardly notices the products.
    """
    layers = _adapted(model)
    return bool(layers) and all(
        layer.get_base_layer().weight.dtype == torch.float32
        and layer.get_base_layer().weight.device.type == "cpu"
        and not any(layer.use_dora.values())
        and not any(layer.lora_bias.values())
        and not layer.lora_embedding_A
        for layer in layers
    )


@contextmanager
def adapter_merged(model: Any) -> Iterator[None]:
    """Within the block the adapter is part of the weights: the same function up to float rounding.

    The weights are copies with its products added. After the block the old ones are back, bit for bit, which
    subtracting would not give.
    """
    weights = [(layer.get_base_layer().weight, layer) for layer in _adapted(model)]
    present = [weight.data for weight, _ in weights]
    with torch.no_grad():
        for weight, layer in weights:
            weight.data = weight.data + sum(layer.get_delta_weight(name) for name in layer.active_adapters)
    try:
        with model.disable_adapter():
            yield
    finally:
        for (weight, _), value in zip(weights, present, strict=True):
            weight.data = value


def _adapted(model: nn.Module) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]
