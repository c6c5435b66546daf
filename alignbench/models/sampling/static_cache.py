"""A key-value cache of fixed shape. A module of its own because its base class loads transformers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, StaticLayer


class _Layer(StaticLayer):  # type: ignore[misc]  # transformers leaves it untyped
    """Keeps keys and values in one precision, as a cache that grows does; under autocast they come in two."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes keys and values (b, heads, n, d) after those of before; returns all columns, (b, heads, w, d)."""
        keys, values = super().update(key_states.to(self.dtype), value_states.to(self.dtype), *args, **kwargs)
        return keys, values


def static_cache(past: Any, width: int) -> Any:
    """An empty cache of `width` columns for the layers, sequences and precision of a filled one."""
    layers = []
    for source in past.layers:
        layer = _Layer(width)
        layer.lazy_initialization(source.keys, source.values)
        layers.append(layer)
    return Cache(layers=layers)


def refill(cache: Any, past: Any) -> None:
    """Puts the keys and values of `past` in the place of what the cache holds; columns after them stay as they are."""
    for layer, source in zip(cache.layers, past.layers, strict=True):
        layer.cumulative_length.zero_()
        layer.update(source.keys, source.values)
