"""Several networks that read the same tokens, each with a cache of its own, and give one set of logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class SideBySide(nn.Module):
    """Networks, the first of which says what is known of them all; a subclass says what becomes of their logits."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    @property
    def config(self) -> Any:
        """That of the first."""
        return self.networks[0].config

    @property
    def generation_config(self) -> Any:
        """That of the first."""
        return getattr(self.networks[0], "generation_config", None)

    def get_input_embeddings(self) -> Any:
        """Those of the first."""
        first: Any = self.networks[0]
        return first.get_input_embeddings()

    def combined(self, logits: Sequence[Tensor]) -> Tensor:
        """Logits (b, t, V) made of those of each network."""
        raise NotImplementedError


def networks_of(model: Any) -> tuple[Any, ...]:
    """The networks that are one model; none of a model that is one network."""
    return tuple(model.networks) if isinstance(model, SideBySide) else ()
