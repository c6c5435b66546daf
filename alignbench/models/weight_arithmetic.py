"""Sums of the weights of models that have one shape: a model as a point, and what lies between or beyond two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from alignbench.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.models.language_model import LanguageModel


@torch.no_grad()
def difference(policy: LanguageModel, other: LanguageModel, role: str) -> dict[str, Tensor]:
    """The weights of another model less those of the policy, by name; weights that are tied are one.

    An adapter in either must be merged, as that of an earlier run is.

    Raises:
        ModelError: They have not the same weights; `role` is what `builds_on` calls the other.
    """
    return {name: theirs - mine for name, mine, theirs in _side_by_side(policy, other, role)}


@torch.no_grad()
def mix(policy: LanguageModel, other: LanguageModel, weight: float, role: str) -> None:
    """Moves the policy's weights by a share of the way to another model's, in place: 0 and 1 are the two, bit for bit.

    ModelError as in `difference`.
    """
    for _, mine, theirs in _side_by_side(policy, other, role):
        mine.copy_(torch.lerp(mine, theirs, weight))
    policy.is_as_loaded = False


class Line:
    """The points policy + t * direction; the policy's weights are set to one after another, each from the start."""

    def __init__(self, policy: LanguageModel, direction: dict[str, Tensor]) -> None:
        self._policy, self._direction = policy, direction
        weights = dict(policy.model.named_parameters())
        self._start = {name: weights[name].detach().clone() for name in direction}

    @torch.no_grad()
    def go_to(self, t: float) -> None:
        """Sets the weights; 0 is the start, bit for bit."""
        for name, weight in self._policy.model.named_parameters():
            if name in self._direction:
                weight.copy_(self._start[name] + t * self._direction[name])
        self._policy.is_as_loaded = False


def _side_by_side(policy: LanguageModel, other: LanguageModel, role: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    mine, theirs = (dict(one.model.named_parameters()) for one in (policy, other))
    unlike = [name for name in mine.keys() | theirs.keys() if not _alike(mine.get(name), theirs.get(name))]
    if unlike:
        name = min(unlike)
        shapes = [None if one is None else tuple(one.shape) for one in (mine.get(name), theirs.get(name))]
        raise ModelError(
            f"builds_on.{role}: got {other.name!r}, whose weight {name} is {shapes[1]} where the policy's is "
            f"{shapes[0]} ({len(unlike)} weights differ so), expected a run that was trained from the same model, not "
            "quantized"
        )
    for name, weight in mine.items():
        yield name, weight, theirs[name].to(weight)


def _alike(mine: Tensor | None, theirs: Tensor | None) -> bool:
    return mine is not None and theirs is not None and mine.shape == theirs.shape and mine.is_floating_point()
