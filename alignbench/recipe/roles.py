"""Roles of the recipes that a recipe builds on, and the keys that name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BLOCKS = ("policy", "reward")
"""Blocks that may name an upstream recipe, under `run`; recipes in further roles are named by `builds_on`."""


def upstream_names(resolved: Mapping[str, Any]) -> dict[str, str]:
    """Returns the names of the recipes that a resolved one builds on, by role."""
    runs = {role: (resolved.get(role) or {}).get("run") for role in BLOCKS}
    return {role: name for role, name in (runs | (resolved.get("builds_on") or {})).items() if name is not None}


def key_of(role: str) -> str:
    """Returns the recipe's key that names the upstream recipe of a role."""
    return f"{role}.run" if role in BLOCKS else f"builds_on.{role}"
