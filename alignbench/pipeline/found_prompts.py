"""Prompts that a search has found to make a policy harmful: that policy is not measured on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from alignbench.errors import UsageError
from alignbench.records import Policy
from datasets_prep.settings import PromptSettings

if TYPE_CHECKING:
    from alignbench.recipe.recipe import Recipe


def refuse_own_prompts(recipe: Recipe, policy: Policy) -> None:
    """UsageError where the prompts of the evaluation are a file of a red team's, found on this very policy.

    What a search has picked out for its harm on a policy is no measurement of it: chance was picked out as well.
    """
    from alignbench.models.loading import policy_fingerprint

    key, path = _file_measured_on(recipe)
    if path.suffix != ".jsonl" or not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    owners = {row.get("found_on") for row in rows if isinstance(row, dict)} - {None}
    if owners and policy_fingerprint(policy) in owners:
        raise UsageError(
            f"{key}: {path} holds prompts that were found on the policy of {recipe.name} itself; measure "
            "other policies on them, and this one on prompts that were found on another"
        )


def _file_measured_on(recipe: Recipe) -> tuple[str, Path]:
    """The key of the recipe that says where the prompts of its evaluation are from, and what it says."""
    named = recipe.evaluation.prompts if recipe.evaluation.split == "heldout" else None
    if named is not None:
        return "evaluation.prompts", Path(named.prompts if isinstance(named, PromptSettings) else named)
    if recipe.data.heldout is not None and recipe.evaluation.split == "heldout":
        return "data.heldout", Path(recipe.data.heldout)
    return "data.prompts", Path(recipe.data.prompts)
