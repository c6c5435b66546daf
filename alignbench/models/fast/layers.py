"""Faster forms of four layers, which compute the same function up to float rounding.

Which kernel multiplies large float32 matrices on a CPU fastest is found out on the machine (`kernel_choice`).
benchmarks/README.md has measurements.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from alignbench.models.fast.kernel_choice import KERNELS, KernelChoice, Product

SMALLEST = 4e6
"""Multiplications below which no kernel gains more than it costs to prepare for it."""


SMALLEST_EMBEDDING = 4e6
"""Numbers in an embedding from which `FastEmbedding` does otherwise than torch."""


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
    _share(model)
    return model


class FastLinear(nn.Linear):
    """A linear layer that takes the machine's fastest kernel where there is a choice: large, float32, on a CPU.

    It can be differentiated once, not twice.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        if not self._has_choice(x):
            return super().forward(x)
        is_trained = self.weight.requires_grad
        differentiates = torch.is_grad_enabled() and (is_trained or x.requires_grad)
        use = ("trained" if is_trained else "frozen") if differentiates else "forward"
        kernel = choice.kernel_for(x.numel() // self.in_features, self.in_features, self.out_features, use)
        return self.multiplied(x, kernel)

    def _has_choice(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and x.numel() * self.out_features >= SMALLEST
            and not torch.is_autocast_enabled("cpu")
        )

    def multiplied(self, x: Tensor, kernel: str) -> Tensor:
        """`forward` by one of `kernel_choice.KERNELS`."""
        if kernel == "onednn":
            return self._by_onednn(x)
        if kernel == "weight_first":
            return self._weight_first(x)
        return functional.linear(x, self.weight, self.bias)

    def _weight_first(self, x: Tensor) -> Tensor:
        columns = x.reshape(-1, self.in_features).t()
        bias: Tensor | None = self.bias
        product = self.weight @ columns if bias is None else torch.addmm(bias.unsqueeze(-1), self.weight, columns)
        return product.t().reshape(*x.shape[:-1], self.out_features).contiguous()

    def _by_onednn(self, x: Tensor) -> Tensor:
        # In training mode activations may be checkpointed, by hooks that must see what is saved.
        if self.training or not torch.is_grad_enabled():
            return functional.linear(x.to_mkldnn(), self.weight, self.bias).to_dense()
        inside = _ToOneDNN.apply(x)  # type: ignore[no-untyped-call]
        with torch.autograd.graph.saved_tensors_hooks(*self.kept_once(x)):
            outside: Tensor = _ToDense.apply(functional.linear(inside, self.weight, self.bias))  # type: ignore[no-untyped-call]
        return outside

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


class FastEmbedding(nn.Embedding):
    """A large embedding that shares its weight with the output layer.

    Its gradient is that of the words that were read, which is added to the output layer's. As a matrix of the
    embedding's size it would be filled with zeros, and added word for word.
    """

    def forward(self, ids: Tensor) -> Tensor:
        """Maps (...) to (..., h)."""
        large = self.weight.device.type == "cpu" and self.weight.numel() >= SMALLEST_EMBEDDING
        # A copy without an output layer has another weight.
        has_choice = large and self.weight.requires_grad and self.weight in _SHARED
        if not has_choice or self.max_norm is not None or self.scale_grad_by_freq:
            return super().forward(ids)
        if not _SHARED[self.weight]:
            self.weight.register_post_accumulate_grad_hook(_as_matrix)  # type: ignore[no-untyped-call]
            _SHARED[self.weight] = True
        return functional.embedding(ids, self.weight, self.padding_idx, sparse=True)


_SHARED = WeakTensorKeyDictionary()
"""Weights that an embedding shares with the output layer; True where `_as_matrix` sees to their gradients."""


def _share(model: Any) -> None:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for module in model.modules():
        if head is not None and type(module) is nn.Embedding and module.weight is getattr(head, "weight", None):
            module.__class__ = FastEmbedding
            if module.weight not in _SHARED:
                _SHARED[module.weight] = False


def _as_matrix(weight: Tensor) -> None:
    """Where a loss does not depend on the output layer, the gradient of the embedding comes alone."""
    if weight.grad is not None and weight.grad.is_sparse:
        weight.grad = weight.grad.to_dense()


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


def trial(product: Product) -> dict[str, Callable[[], object]]:
    """What multiplies such a product once, by each kernel that there is for it."""
    rows, n_in, n_out, use = product
    layer = FastLinear(n_in, n_out, bias=False, device="meta").to_empty(device="cpu").eval()
    layer.requires_grad_(use == "trained")
    nn.init.ones_(layer.weight)
    x = torch.ones(rows, n_in, requires_grad=use != "forward")
    trained = [one for one in (x, layer.weight) if one.requires_grad]

    def multiply(kernel: str) -> None:
        with torch.set_grad_enabled(bool(trained)):
            out = layer.multiplied(x, kernel)
        if trained:
            torch.autograd.grad(out, trained, torch.ones_like(out))

    absent = set() if torch.backends.mkldnn.is_available() else {"onednn"}  # type: ignore[no-untyped-call]
    if trained:
        absent.add("weight_first")  # seldom ahead where gradients are taken, and never by much
    return {name: partial(multiply, name) for name in KERNELS if name not in absent}


choice = KernelChoice(trial)
"""The one of this process: of the run that is going on."""
