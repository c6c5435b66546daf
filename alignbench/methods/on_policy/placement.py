"""Where the weights are that training moves: in one process, a copy in each of several, or a part in each.

With several processes every one computes a part of each mini-batch. Losses are sums over its tokens, divided by the
tokens of the whole mini-batch; the gradient is the sum over the processes.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from alignbench.errors import ModelError, TrainingError
from alignbench.methods.on_policy.shared_layers import layers_of
from alignbench.models.forward import is_encoder_decoder
from alignbench.models.loading import has_finite_weights
from alignbench.runtime import distributed

if TYPE_CHECKING:
    from alignbench.methods.on_policy.config import OnPolicyConfig
    from alignbench.models.forward import SequenceBatch
    from alignbench.models.language_model import LanguageModel
    from alignbench.models.output_layer import States


class Placeable(Protocol):
    """What is placed of `networks.Networks`."""

    model: nn.Module
    value_head: nn.Linear | None
    value_model: nn.Module | None
    device: torch.device
    parameters: dict[str, nn.Parameter]

    def policy_and_values(self, batch: SequenceBatch, shared: Tensor | None) -> tuple[Tensor | States, Tensor | None]:
        """Logits or their states, and values, to be differentiated."""
        ...


class OneProcess:
    """All of them here."""

    def __init__(self, networks: Placeable) -> None:
        self.networks = networks

    def policy_and_values(self, batch: SequenceBatch, shared: Tensor | None) -> tuple[Tensor | States, Tensor | None]:
        """`Networks.policy_and_values`, to be differentiated."""
        return self.networks.policy_and_values(batch, shared)

    def accumulating(self, is_last: bool) -> AbstractContextManager[Any]:
        """Surrounds one forward and backward pass of a mini-batch; after the last the gradient is whole."""
        return nullcontext()

    def clip(self, longest: float) -> float:
        """Scales the gradient down to this length; returns the length it had."""
        parameters = self.networks.parameters.values()
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        length = norm.item()
        if not length + 1e-6 <= longest:  # else they would be multiplied by 1
            nn.utils.clip_grads_with_norm_(parameters, longest, norm)
        return length

    def snapshot(self) -> Callable[[], AbstractContextManager[None]]:
        """Keeps the policy's trained weights of this moment; within the returned context the model has them."""
        parameters = [p for p in self.networks.model.parameters() if p.requires_grad]
        kept = [p.detach().clone() for p in parameters]

        @contextmanager
        def swapped() -> Iterator[None]:
            present = [p.data for p in parameters]
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.data = value
            try:
                yield
            finally:
                for parameter, value in zip(parameters, present, strict=True):
                    parameter.data = value

        return swapped

    def has_finite_weights(self) -> bool:
        """True where every trained weight of the policy is a finite number."""
        return has_finite_weights(self.networks.model)

    def serving(self) -> AbstractContextManager[None]:
        """Within the block processes may run different numbers of passes of the policy without gradients."""
        return nullcontext()

    def training(self, policy: LanguageModel) -> AbstractContextManager[None]:
        """Within the block `policy` is what is trained; after it, it is whole in every process."""
        return nullcontext()


class Replicated(OneProcess):
    """A copy in each process, by torch's DistributedDataParallel, which averages gradients during the last pass."""

    def __init__(self, networks: Placeable) -> None:
        super().__init__(networks)
        wrap: Any = nn.parallel.DistributedDataParallel
        known = inspect.signature(wrap).parameters
        of_buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch < 2.13
        self._wrapped = wrap(_Trained(networks), gradient_as_bucket_view=True, **{of_buffers: False})

    def policy_and_values(self, batch: SequenceBatch, shared: Tensor | None) -> tuple[Tensor | States, Tensor | None]:
        """Through the wrapper, which then waits for gradients."""
        found: tuple[Tensor | States, Tensor | None] = self._wrapped(batch, shared)
        return found

    def accumulating(self, is_last: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged once, in the last backward pass."""
        exchanging: AbstractContextManager[Any] = nullcontext() if is_last else self._wrapped.no_sync()
        return exchanging


class _Trained(nn.Module):
    """What is trained, as one module."""

    def __init__(self, networks: Placeable) -> None:
        super().__init__()
        self.policy, self.value_head, self.value_model = networks.model, networks.value_head, networks.value_model
        self._pass = networks.policy_and_values

    def forward(self, batch: SequenceBatch, shared: Tensor | None) -> tuple[Tensor | States, Tensor | None]:
        return self._pass(batch, shared)


class Sharded(OneProcess):
    """A part of every weight in each process, put together for a layer at a time, by torch's `fully_shard`.

    Gradients, optimizer and the reference's weights are divided likewise. A value head on the policy is in each whole:
    sampling runs it, though not in every process equally often.
    """

    def __init__(self, networks: Placeable) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        super().__init__(networks)
        self._whole = _without_weights(networks.model)
        mesh = init_device_mesh(networks.device.type, (distributed.world_size(),))
        for model in filter(None, (networks.model, networks.value_model)):
            for block in layers_of(model):
                fully_shard(block, mesh=mesh)
            # Put apart after each pass, or a pass after the reference's would still have the reference's weights.
            fully_shard(model, mesh=mesh, reshard_after_forward=True)
        if (
            networks.value_model is not None and networks.value_head is not None
        ):  # the optimizer takes no group of whole tensors and parts
            fully_shard(networks.value_head, mesh=mesh)

    def clip(self, longest: float) -> float:
        """Takes the length over all parts."""
        gradients = [p.grad for p in self.networks.parameters.values() if p.grad is not None]
        everywhere = [gradient for gradient in gradients if not _is_in_parts(gradient)]
        for gradient in everywhere:  # the passes have averaged the others over the processes
            gradient.copy_(_sum(gradient) / distributed.world_size())
        parts = [_here(gradient) for gradient in gradients if _is_in_parts(gradient)]
        norm = (_sum(nn.utils.get_total_norm(parts) ** 2) + nn.utils.get_total_norm(everywhere) ** 2).sqrt()
        for gradient in (*parts, *everywhere):
            gradient.mul_((longest / (norm + 1e-6)).clamp(max=1.0))
        return norm.item()

    def snapshot(self) -> Callable[[], AbstractContextManager[None]]:
        """The weights are exchanged in their places, which is where `fully_shard` looks for them."""
        here = [_here(p.detach()) for p in self.networks.model.parameters() if p.requires_grad]
        kept = [part.clone() for part in here]

        def exchange() -> None:
            for part, other in zip(here, kept, strict=True):
                present = part.clone()
                part.copy_(other)
                other.copy_(present)

        @contextmanager
        def swapped() -> Iterator[None]:
            with torch.no_grad():
                exchange()
            try:
                yield
            finally:
                with torch.no_grad():
                    exchange()

        return swapped

    def has_finite_weights(self) -> bool:
        """Looks at all parts."""
        trained = [p for p in self.networks.model.parameters() if p.requires_grad]
        return all(distributed.gather(all(bool(_here(p).isfinite().all()) for p in trained)))

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Every pass takes all processes: who is done runs passes on one token until the others are."""
        model, device = self.networks.model, self.networks.device
        busy, done, token = (torch.tensor(value, device=device) for value in (1, 0, [[0]]))

        def announce(*_: object) -> None:
            _sum(busy)

        handle = model.register_forward_pre_hook(announce, prepend=True)
        try:
            yield
        finally:
            handle.remove()
            with torch.no_grad():
                while _sum(done) > 0:
                    model(input_ids=token, attention_mask=torch.ones_like(token), use_cache=False)

    @contextmanager
    def training(self, policy: LanguageModel) -> Iterator[None]:
        """After the block the policy has a model of its own, made of all parts."""
        policy.model = self.networks.model
        yield
        for place, parameter in zip(self._whole.parameters(), self.networks.model.parameters(), strict=True):
            full = whole(parameter.detach())
            trained = nn.Parameter(full, requires_grad=parameter.requires_grad)
            torch.utils.swap_tensors(place, trained)  # type: ignore[no-untyped-call]
        policy.model = self._whole


def placement_of(networks: Placeable, config: OnPolicyConfig) -> OneProcess:
    """Places networks as the number of processes and `sharding` say; sharding replaces their parameters.

    Raises:
        TrainingError: A mini-batch cannot be cut evenly.
        ModelError: The policy cannot be sharded.
    """
    n = distributed.world_size()
    if n == 1:
        return OneProcess(networks)
    if config.mini_batch_size % (share := n * config.rows_together):
        raise TrainingError(
            f"method.mini_batch_size: got {config.mini_batch_size} with {n} processes, expected a multiple of {share}: "
            "every process takes an equal share of each mini-batch"
        )
    if config.sharding == "none":
        return Replicated(networks)
    for is_true, what in (
        (is_encoder_decoder(networks.model), "an encoder-decoder policy"),
        (not all(p.is_floating_point() for p in networks.model.parameters()), "a quantized policy"),
        (config.optimizer == "adamw_8bit", "AdamW in 8 bits"),
    ):
        if is_true:
            raise ModelError(f"method.sharding: got 'full' for {what}, expected 'none'")
    return Sharded(networks)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be in parts, put together: every process has to ask."""
    full: Tensor = tensor.full_tensor() if _is_in_parts(tensor) else tensor  # type: ignore[attr-defined]
    return full


def placed_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor that every process has, in parts where `other` is."""
    if not _is_in_parts(other):
        return tensor.to(other.device)
    from torch.distributed.tensor import distribute_tensor

    place: Any = other
    return distribute_tensor(tensor.to(other.device), place.device_mesh, place.placements, src_data_rank=None)


def _is_in_parts(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def _here(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in its place; the tensor itself where it is whole."""
    part: Tensor = tensor.to_local() if _is_in_parts(tensor) else tensor  # type: ignore[attr-defined]
    return part


def _sum(tensor: Tensor) -> Tensor:
    """The sum over the processes, as a new tensor."""
    from torch import distributed as backend

    total = tensor.clone()
    backend.all_reduce(total)
    return total


def _without_weights(model: nn.Module) -> nn.Module:
    """A copy of a model whose parameters take no memory; those that are one in the model are one in it."""
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, dict[int, Any](empty))
