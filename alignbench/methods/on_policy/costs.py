"""What the passes of training cost, counted from their batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignbench.methods.on_policy.shared_layers import layers_of
from alignbench.models.flops import tokens_of, weights_of
from alignbench.records import Cost

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.methods.on_policy.networks import Networks
    from alignbench.models.forward import SequenceBatch


class PassCosts:
    """Estimates for one set of networks; the value head, one number per token, is left out."""

    def __init__(self, networks: Networks) -> None:
        config, n_shared = networks.config, networks.config.shared_layers
        self._whole = weights_of(networks.model)
        shared = layers_of(networks.model)[:n_shared] if n_shared else ()
        self._above = weights_of(networks.model, without=shared)
        """What a pass computes that is given the output of the shared layers, and what its gradient goes through."""
        self._trained = weights_of(networks.model, trained=True)
        self._value = networks.value_model
        if self._value is not None:
            frozen = layers_of(self._value)[:n_shared] if n_shared else ()
            self._value_whole = weights_of(self._value)
            self._value_above = weights_of(self._value, without=frozen)
            self._value_trained = weights_of(self._value, trained=True)
        self._reference_in_loss = config.kl_placement == "loss" and config.kl_estimator == "exact"
        self.n_parameters = sum(p.numel() for p in networks.parameters.values())

    def rollout(self, batch: SequenceBatch) -> Cost:
        """Policy, values and reference over the completions of a step, without gradient."""
        tokens = tokens_of(batch)
        flops = self._whole.flops(tokens) + self._above.flops(tokens)  # what they share is computed once
        if self._value is not None:
            flops += self._value_whole.flops(tokens)
        return Cost(forward_flops=flops)

    def update(self, batch: SequenceBatch, mask: Tensor) -> Cost:
        """One forward and backward pass over a mini-batch, of which the tokens of `mask` (b, t) are in the loss."""
        tokens = tokens_of(batch)
        forward = self._above.flops(tokens)
        backward = self._above.flops(tokens) + self._trained.flops(tokens)
        if self._value is not None:
            forward += self._value_whole.flops(tokens)
            backward += self._value_above.flops(tokens) + self._value_trained.flops(tokens)
        if self._reference_in_loss:
            forward += self._above.flops(tokens)
        return Cost(
            trained_tokens=int(mask.sum()),
            forward_flops=forward,
            backward_flops=backward,
            trainable_parameters=self.n_parameters,
        )
