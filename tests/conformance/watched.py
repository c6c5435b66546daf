"""What is watched while a method trains: what it moves, what it must not move, and what torch multiplies meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from alignbench.models.fast import layers
from alignbench.models.language_model import LanguageModel
from alignbench.records import Cost

PRODUCTS = ("aten.mm", "aten.addmm")
"""Products with weights. Those of attention scores are no part of estimated FLOPs."""


class Watched:
    """The networks of one training: those that are given to be trained, and those that have to stay as they are."""

    def __init__(self) -> None:
        self._given: list[tuple[nn.Module, _Bits]] = []
        self._kept: list[tuple[str, _Bits]] = []
        self.moved_at_first = False
        """True where a weight that was given had moved after the first step, or an adapter had an effect."""
        self.beside_steps = Cost()
        """What was booked for no step."""

    def give(self, network: nn.Module) -> None:
        """Notes a network that may be trained."""
        self._given.append((network, _Bits(network)))

    def keep(self, what: str, network: object) -> None:
        """Notes what must not change; what is no network is left alone."""
        if isinstance(network, nn.Module):
            self._kept.append((what, _Bits(network)))

    def give_policy(self, policy: LanguageModel) -> None:
        """Notes a policy that may be trained. What is copied of it as a reference has to stay as it is."""
        self.give(policy.model)
        copied: Callable[[], LanguageModel] = policy.frozen_copy

        def frozen_copy() -> LanguageModel:
            copy = copied()
            self.keep("the frozen copy of the policy", copy.model)
            return copy

        vars(policy)["frozen_copy"] = frozen_copy

    def note_first_step(self) -> None:
        """Sees whether the first step has moved anything."""
        self.moved_at_first = any(bits.changed() or _adapter_acts(network) for network, bits in self._given)

    def disturbed(self) -> list[str]:
        """What has changed and should not have: what was kept, and weights that take no gradient."""
        found = [f"{name} of {what}" for what, bits in self._kept for name in bits.changed()]
        return found + [f"{name}, which takes no gradient," for _, bits in self._given for name in bits.changed(False)]


class _Bits:
    """The weights of a network as they are now, to the bit."""

    def __init__(self, network: nn.Module) -> None:
        self._bits = [(name, p, p.detach().clone()) for name, p in network.named_parameters()]

    def changed(self, takes_gradient: bool | None = None) -> list[str]:
        """Names of those that are others by now; of all, or of those that do or do not take a gradient."""
        asked = [one for one in self._bits if takes_gradient in (None, one[1].requires_grad)]
        return [name for name, now, before in asked if not _equal(now.detach(), before)]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _adapter_acts(network: nn.Module) -> bool:
    return any(bool(p.any()) for name, p in network.named_parameters() if "lora_B" in name)


@contextmanager
def counting() -> Iterator[Callable[[], float]]:
    """Within the block torch counts the FLOPs of products with weights; gives what has been counted so far."""
    counter = FlopCounterMode(display=False)

    def counted() -> float:
        by_operator: dict[Any, int] = counter.get_flop_counts().get("Global", {})
        return float(sum(n for key, n in by_operator.items() if str(key).removesuffix(".default") in PRODUCTS))

    with patch.object(layers, "SMALLEST", float("inf")), counter:  # torch does not count what oneDNN multiplies
        yield counted
