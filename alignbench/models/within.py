"""The language model within a policy that is around one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alignbench.errors import ModelError

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.records import Policy

_PLACES = ("base", "ensemble", "model")
"""Attributes that hold it, or a policy that has it within."""


def language_model_of(policy: Policy) -> LanguageModel:
    """Returns a language model itself, and of any other policy the one that its `base` is or has within.

    ModelError where there is none.
    """
    from alignbench.models.language_model import LanguageModel

    found: Any = policy
    while not isinstance(found, LanguageModel):
        found = next((getattr(found, place) for place in _PLACES if hasattr(found, place)), None)
        if found is None:
            raise ModelError(f"a {type(policy).__name__} has no language model within, in an attribute `base`")
    return found
