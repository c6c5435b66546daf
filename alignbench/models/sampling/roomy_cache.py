"""A key-value cache with room for the next tokens. A module of its own because its base class loads transformers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

_ROOM = 32
"""Columns that are made room for at once."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers leaves it untyped
    """Writes a token beside the others, where its base class copies all of them into new memory at every step."""

    keys: Tensor
    values: Tensor
    room: tuple[Tensor, Tensor] | None = None
    """Keys and values (b, heads, columns, d), of which the first columns are `keys` and `values`."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Puts keys and values (b, heads, n, d) after those of before; returns all of them."""
        before = self.keys.shape[-2]
        after = before + key_states.shape[-2]
        if self.room is None or self.room[0].shape[-2] < after:
            self.room = _with_room(self.keys, after + _ROOM), _with_room(self.values, after + _ROOM)
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, before:after] = states
        self.keys, self.values = (room[:, :, :after] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps some rows."""
        super().batch_select_indices(indices)
        self.room = None


def give_room(cache: Any) -> None:
    """Lets the layers of a filled cache grow in place, where all that they do is to grow."""
    for layer in getattr(cache, "layers", ()):
        if type(layer) is DynamicLayer and layer.is_initialized and not layer.keys.requires_grad:
            layer.__class__ = RoomyLayer


def _with_room(states: Tensor, columns: int) -> Tensor:
    room = states.new_empty((*states.shape[:2], columns, states.shape[3]))
    room[:, :, : states.shape[2]] = states
    return room
