"""What training runs forward: the policy, its values where the method has any, and the frozen reference."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from alignbench.errors import ModelError
from alignbench.methods.on_policy.fast.merged_adapter import adapter_merged, can_merge
from alignbench.methods.on_policy.placement import placement_of
from alignbench.methods.on_policy.shared_layers import SharedLayers
from alignbench.models.forward import SequenceBatch, base_model, completion_forward, compute_again
from alignbench.models.output_layer import OutputLayer, States, output_layer, rows_that_fit
from alignbench.runtime.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.methods.on_policy.config import OnPolicyConfig
    from alignbench.models.language_model import LanguageModel


class Networks:
    """Policy, values and reference over one set of weights wherever that is possible.

    The reference is the policy as it is now: the same network with its adapter off where the adapter is fresh,
    otherwise with the trainable weights of this moment in place of the present ones. Weights that are not trained
    exist once.
    """

    def __init__(self, policy: LanguageModel, config: OnPolicyConfig, seed: int) -> None:
        if not any(p.requires_grad for p in policy.model.parameters()):
            raise ModelError("the policy has no weight that takes gradients: nothing would be trained")
        self.config = config
        self.model: nn.Module = policy.model.eval()  # no layer may behave otherwise in training than in sampling
        self.device = policy.device
        if config.shared_layers and policy.is_encoder_decoder:
            raise ModelError(
                f"shared_layers: got {config.shared_layers}, expected 0 for an encoder-decoder policy: both halves of "
                "it read the prompt, and freezing layers of one is no shared bottom"
            )
        self.shared = SharedLayers(self.model, config.shared_layers) if config.shared_layers else None
        self.value_model: nn.Module | None = None
        self.value_head: nn.Linear | None = None
        if config.values is not None:
            self.value_model = _headless_copy(self.model) if config.values.value_model == "separate" else None
            self.value_head = value_head(self.model, config.values.value_init, seed).to(self.device)
        if config.gradient_checkpointing:
            for module in filter(None, (self.model, self.value_model)):
                compute_again(module)
        is_fresh = has_fresh_adapter(self.model)
        self.seen_by_reference: Callable[[SequenceBatch], SequenceBatch] = lambda batch: batch
        """What the reference reads in place of what the policy does."""
        self.start = self._sample_of_weights(is_fresh)
        """Tells one starting policy from another."""
        self.placement = placement_of(self, config)
        modules = {"policy": self.model, "value_head": self.value_head, "value_model": self.value_model}
        self.parameters = trainable({name: module for name, module in modules.items() if module is not None})
        self.as_reference: Callable[[], AbstractContextManager[None]] = (
            policy.adapter_off if is_fresh else self.placement.snapshot()
        )
        self.rows_at_once, self.output_layer = self._rows_and_layer()

    def _rows_and_layer(self) -> tuple[int, OutputLayer | None]:
        """Completions in one pass, and the output layer where its logits are too many to be made whole.

        Passes that need whole logits with their gradient, or a gradient of the layer, have fewer rows in its place.
        """
        config, fitting = self.config, rows_that_fit(self.model, self.config.completion_tokens[1])
        rows = config.rows_at_once
        if rows <= fitting:
            return rows, None
        layer = output_layer(self.model) if config.fuses and not config.mixed_precision else None
        if layer is not None and layer.is_frozen:
            return rows, layer
        if config.micro_batch_size is not None:
            return rows, None
        n, together = config.mini_batch_size // config.rows_together, config.rows_together
        return together * math.ceil(n / math.ceil(n / max(1, fitting // together))), None

    def _sample_of_weights(self, is_fresh: bool) -> str:
        """Hash of up to 64 values of every weight; a fresh adapter's random ones do not count."""
        digest = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            if not (is_fresh and "lora_" in name):
                values = parameter.detach().flatten()
                some = values[:: max(1, values.numel() // 64)][:64].float().cpu()
                digest.update(name.encode() + some.numpy().tobytes())
        return digest.hexdigest()[:16]

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision where it is asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.mixed_precision)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Surrounds sampling, which takes processes different numbers of passes."""
        merges = self.config.captures and self.config.sharding == "none" and can_merge(self.model)
        merged = adapter_merged(self.model) if merges else nullcontext()
        with self.autocast(), self.placement.serving(), merged:
            yield

    def policy_and_values(self, batch: SequenceBatch, shared: Tensor | None) -> tuple[Tensor | States, Tensor | None]:
        """Logits (b, t, V) that predict each completion token, and the values (b, t) of the states before them.

        Of large vocabularies the states that logits are made of; see `_rows_and_layer`.
        """
        of_the_policy = self.value_head is not None and self.value_model is None
        with self.autocast(), self._replayed(shared):
            logits, hidden = self._pass(batch, hidden=of_the_policy)
        if self.value_head is None:
            return logits, None
        if self.value_model is not None:
            with self.autocast():
                _, hidden = completion_forward(self.value_model, batch, hidden=True)
        assert hidden is not None
        return logits, self.values_of(hidden)

    def values_of(self, hidden: Tensor) -> Tensor:
        """Values (...,) of last hidden states (..., h), where the method has any."""
        assert self.value_head is not None
        values: Tensor = self.value_head(hidden.float()).squeeze(-1)
        return values

    def _pass(self, batch: SequenceBatch, *, hidden: bool = False) -> tuple[Tensor | States, Tensor | None]:
        """`completion_forward` of the policy's network; `States` in place of logits where there is an output layer."""
        if self.output_layer is None:
            return completion_forward(self.model, batch, hidden=hidden)
        with self.output_layer.passed_by() as given:
            _, last = completion_forward(self.model, batch, hidden=hidden)
        return States(given[0][:, -batch.completion_mask.shape[1] :], self.output_layer), last

    @torch.no_grad()
    def reference_logits(self, batch: SequenceBatch, shared: Tensor | None) -> Tensor | States:
        """Logits of the reference, (b, t, V), or the states that they are made of."""
        with self.as_reference(), self.autocast(), self._replayed(shared):
            return self._pass(self.seen_by_reference(batch))[0]

    @torch.no_grad()
    def reference_and_shared(self, batch: SequenceBatch) -> tuple[Tensor | States, Tensor | None]:
        """Logits of the reference (b, t, V) or their states, and what the layers that it shares with the policy give.

        The latter is (b, p + t - 1, h); None where they share none.
        """
        if self.shared is None:
            return self.reference_logits(batch, None), None
        with self.shared.recorded() as outputs:
            return self.reference_logits(batch, None), outputs[0]

    def _replayed(self, shared: Tensor | None) -> AbstractContextManager[None]:
        return nullcontext() if self.shared is None or shared is None else self.shared.replayed(shared)

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Within the block gradient checkpointing is at work, if it is asked for: models do it in training mode only.

        Dropout is off in either mode.
        """
        modules = [m for m in (self.model, self.value_model) if m is not None and self.config.gradient_checkpointing]
        for module in modules:
            module.train()
        try:
            yield
        finally:
            for module in modules:
                module.eval()


def trainable(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters that take gradients, named `<module>.<parameter>`; parameters shared by two names once."""
    found: dict[str, nn.Parameter] = {}
    for module_name, module in modules.items():
        found |= {f"{module_name}.{name}": p for name, p in module.named_parameters() if p.requires_grad}
    return found


def value_head(model: nn.Module, init: str, seed: int) -> nn.Linear:
    """A linear head on the last hidden state.

    Its weights start at 0, so that the first values say nothing, or are normal with standard deviation
    1 / sqrt(d + 1), d the hidden size (both in the code of Ziegler et al. 2019: values, and reward models).
    """
    d = base_model(model).get_output_embeddings().weight.shape[1]
    head = nn.Linear(d, 1, device="meta").to_empty(device="cpu")  # no draw from the global generator
    weight = np.zeros(d) if init == "zero" else generator(seed, "value head").normal(0, 1 / math.sqrt(d + 1), d)
    with torch.no_grad():
        head.bias.zero_()
        head.weight.copy_(torch.from_numpy(weight))
    return head


def has_fresh_adapter(model: nn.Module) -> bool:
    """True where everything trainable is LoRA, and no adapter has an effect yet, a frozen one included (B is 0)."""
    is_lora = all("lora_A" in name or "lora_B" in name for name, p in model.named_parameters() if p.requires_grad)
    is_idle = all(not bool(p.any()) for name, p in model.named_parameters() if "lora_B" in name)
    return hasattr(model, "disable_adapter") and is_lora and is_idle


def _headless_copy(model: nn.Module) -> nn.Module:
    """A copy of the policy that computes no logits, trained where the policy is."""
    network = copy.deepcopy(model)
    base_model(network).set_output_embeddings(_NoHead())
    return network


class _NoHead(nn.Module):
    """Takes the place of an output layer whose output is not read."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.new_zeros((*hidden.shape[:-1], 1))
