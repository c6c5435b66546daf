"""Faster forms of three layers, which compute the same function up to float rounding.

`torch.nn.functional.linear` multiplies float32 matrices on a CPU by MKL, which on an AMD EPYC (Zen 4) reaches half the
rate of oneDNN, the library that takes over where the input has its layout (`Tensor.to_mkldnn`, with gradients).
benchmarks/README.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Callable
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
            elif type(child).__name__ == "GPTNeoSelfAttention" and child.attn_dropout.p == 0:
                from alignbench.models.fast.gpt_neo_attention import GPTNeoAttention

                child.__class__ = GPTNeoAttention
    return model


class FastLinear(nn.Linear):
    """A linear layer multiplied by oneDNN where that pays: float32 on a CPU, and large enough.

    It can be differentiated once, not twice.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        if not self._pays(x):
            return super().forward(x)
        # In training mode activations may be checkpointed, by hooks that must see what is saved.
        if self.training or not torch.is_grad_enabled():
            return functional.linear(x.to_mkldnn(), self.weight, self.bias).to_dense()
        inside = _ToOneDNN.apply(x)  # type: ignore[no-untyped-call]
        with torch.autograd.graph.saved_tensors_hooks(*self.kept_once(x)):
            outside: Tensor = _ToDense.apply(functional.linear(inside, self.weight, self.bias))  # type: ignore[no-untyped-call]
        return outside

    def _pays(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and x.numel() * self.out_features >= SMALLEST
            and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
            and not torch.is_autocast_enabled("cpu")
        )

    def kept_once(self, x: Tensor) -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]:
        """How the input is kept for the backward pass: as it came, and only its shape where the weight is frozen.

        Several layers often read one input; in the layout of oneDNN each would keep a copy of its own.
        """
        whole, version = x.detach() if self.weight.requires_grad else None, x._version

        def pack(saved: Tensor) -> Any:
            if not saved.is_mkldnn:
                return saved
            return (saved.shape, saved.layout) if whole is None else whole

        def unpack(packed: Any) -> Tensor:
            if isinstance(packed, tuple):
                shape, layout = packed
                return torch.empty(shape, layout=layout)
            if whole is None or packed is not whole:
                return packed  # type: ignore[no-any-return]
            if whole._version != version:
                raise RuntimeError("the input of a linear layer was changed in place before its backward pass")
            return whole.to_mkldnn()

        return pack, unpack


class _ToOneDNN(torch.autograd.Function):
    """`Tensor.to_mkldnn`, which would keep its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.to_mkldnn()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.to_dense()


class _ToDense(torch.autograd.Function):
    """`Tensor.to_dense` from oneDNN's layout, which would keep its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.to_dense()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.to_mkldnn()
