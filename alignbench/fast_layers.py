"""Faster forms of three layers, which compute the same function up to float rounding.

`torch.nn.functional.linear` multiplies float32 matrices on a CPU by MKL, which on an AMD EPYC (Zen 4) reaches half the
rate of oneDNN, the library that takes over where the input has its layout (`Tensor.to_mkldnn`, with gradients).
benchmarks/README.md has the measurements.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST = 4e6
"""Multiplications below which the change of layout costs more than it gains."""


def with_fast_layers(model: Any) -> Any:
    """Puts the faster forms in the place of their layers, in place; weights and their names stay."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                child.__class__ = FastLinear
            elif type(child).__name__ == "NewGELUActivation":  # of GPT-2, Neo, J: the tanh form in seven operations
                setattr(module, name, nn.GELU(approximate="tanh"))
            elif type(child).__name__ == "GPTNeoSelfAttention":
                from alignbench.gpt_neo_attention import GPTNeoAttention

                child.__class__ = GPTNeoAttention
    return model


class FastLinear(nn.Linear):
    """A linear layer multiplied by oneDNN where that pays: float32 on a CPU, and large enough."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        if self._pays(x):
            return functional.linear(x.to_mkldnn(), self.weight, self.bias).to_dense()
        return super().forward(x)

    def _pays(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and x.numel() * self.out_features >= SMALLEST
            and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
            and not torch.is_autocast_enabled("cpu")
        )
