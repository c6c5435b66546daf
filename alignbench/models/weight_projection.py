"""Directions taken out of what a layer's feed-forward part can write."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alignbench.errors import ModelError


def output_weight(block: nn.Module, n_hidden: int) -> tuple[nn.Parameter, bool]:
    """The weight by which the feed-forward part of a layer writes its output, and whether its rows are the output.

    It is the last matrix of the layer, with `n_hidden` outputs: (h, inner) of a linear layer, (inner, h) of GPT-2's
    convolutions.

    Raises:
        ModelError: It is not there, or is no plain matrix.
    """
    kinds = [one for one in block.modules() if isinstance(one, nn.Linear) or type(one).__name__ == "Conv1D"]
    last: Any = kinds[-1] if kinds else None
    rows_are_outputs = isinstance(last, nn.Linear)
    weight: nn.Parameter | None = getattr(last, "weight", None)
    shape = None if weight is None else tuple(weight.shape)
    if weight is None or shape is None or len(shape) != 2 or shape[0 if rows_are_outputs else 1] != n_hidden:
        raise ModelError(
            f"{type(block).__name__}: got {shape} as the last matrix of a layer, expected one that writes "
            f"{n_hidden} numbers: this family cannot be edited"
        )
    return weight, rows_are_outputs


@torch.no_grad()
def project_out(block: nn.Module, directions: Tensor) -> None:
    """Takes orthonormal directions (h, k) out of what the feed-forward part of a layer writes, bias apart, in place."""
    weight, rows_are_outputs = output_weight(block, directions.shape[0])
    if not directions.shape[1]:
        return
    v, w = directions.to(weight.device, torch.float64), weight.double()
    w = w - v @ (v.T @ w) if rows_are_outputs else w - (w @ v) @ v.T
    weight.copy_(w.to(weight.dtype))
