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
    """UsageError where `evaluation.prompts` is a file of a red team's, and was found on this very policy.

    What a search has picked out for its harm on a policy is no measurement of it: chance was picked out as well.
    """
    from alignbench.models.language_model import LanguageModel
    from alignbench.models.loading import weights_fingerprint

    source = recipe.evaluation.prompts
    path = Path(source.prompts if isinstance(source, PromptSettings) else source or "")
    if path.suffix != ".jsonl" or not path.is_file() or not isinstance(policy, LanguageModel):
        return
    with path.open(encoding="utf-8") as file:
        owners = {row.get("found_on") for row in map(json.loads, file) if isinstance(row, dict)} - {None}
    if owners and weights_fingerprint(policy.model) in owners:
        raise UsageError(
            f"evaluation.prompts: {path} holds prompts that were found on the policy of {recipe.name} itself; measure "
            "other policies on them, and this one on prompts that were found on another"
        )
