"""The identity of a run, from its resolved recipe: of a recipe at hand, or of one that lies beside a stored run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignbench.identity import identity_values
from alignbench.methods.registry import is_usable, method_class
from alignbench.recipe.blocks import RecipeSettings
from alignbench.recipe.roles import key_of, upstream_names
from alignbench.records import fingerprint


def identity_settings(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a resolved recipe that belong to the identity of its run.

    All settings of a method that is not installed count.
    """
    values = identity_values(RecipeSettings, resolved)
    method = values.get("method")
    if isinstance(method, Mapping) and is_usable(method.get("name")):
        values["method"] = identity_values(method_class(method["name"]), method)
    return values


def run_hash(resolved: Mapping[str, Any], upstream_hashes: Mapping[str, str]) -> str:
    """Returns the hash of a run's identity.

    Args:
        resolved: The resolved recipe.
        upstream_hashes: By role, run hashes, in place of the names of the recipes that this one builds on.
    """
    values = identity_settings(resolved)
    for role in upstream_names(values):
        block, key = key_of(role).split(".", 1)
        values[block] = {**values[block], key: upstream_hashes[role]}
    return fingerprint(values)
