"""Preference pairs of a recipe: of its training prompts as its budget pays for them, and of its held-out prompts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from alignbench.errors import UsageError
from alignbench.pipeline.drawing import kept_pairs
from alignbench.pipeline.prompt_limits import longest_trained_on
from alignbench.records import HeldOut, Prompt, Scorer
from alignbench.runtime.device import cache_directory
from alignbench.scorers.room import without_room
from datasets_prep.cache import BuiltPairs
from datasets_prep.prompt_lengths import prompt_length

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.recipe import Recipe

logger = logging.getLogger(__name__)


def training_pairs(recipe: Recipe, policy: LanguageModel, labeller: Scorer, prompts: Sequence[Prompt]) -> BuiltPairs:
    """Returns preference pairs of as many prompts as are wanted, or as the budget pays for."""
    settings = recipe.pairs
    most = recipe.budget.completions // settings.completions_per_prompt
    if not 1 <= (settings.n_prompts or most) <= most:
        raise UsageError(
            f"budget.completions: got {recipe.budget.completions}, expected at least "
            f"{(settings.n_prompts or 1) * settings.completions_per_prompt}: pairs.completions_per_prompt times "
            "pairs.n_prompts, or times one prompt"
        )
    return _pairs(recipe, policy, labeller, prompts[: settings.n_prompts or most], "training")


def heldout_pairs(
    recipe: Recipe, policy: LanguageModel, labeller: Scorer, heldout: HeldOut
) -> tuple[BuiltPairs, HeldOut]:
    """Returns pairs of all held-out prompts, whatever the budget, and the prompts that they were drawn for.

    A prompt that leaves no room for completions of pairs is left out, and counted.
    """
    longest, tokenizer = longest_trained_on(recipe, policy), policy.text_tokenizer
    prompts = tuple(prompt for prompt in heldout.prompts if prompt_length(tokenizer, prompt) <= longest)
    n_lost = len(heldout.prompts) - len(prompts)
    rows = heldout.rows
    if n_lost:
        reason = {f"longer than {longest} tokens, what completions of pairs leave of the context": n_lost}
        rows = replace(rows, left_out={**rows.left_out, **reason})
    return _pairs(recipe, policy, labeller, prompts, "held-out"), HeldOut(prompts, rows)


def _pairs(
    recipe: Recipe, policy: LanguageModel, labeller: Scorer, prompts: Sequence[Prompt], purpose: str
) -> BuiltPairs:
    """Preference pairs of some prompts, drawn once and kept for every method that wants the same ones."""
    for lacking in without_room(labeller, policy, prompts, recipe.pairs.completion_tokens[1]):
        logger.warning("pairs.completion_tokens: %s and take no part", lacking)
    key, directory = (recipe.seed, "pairs", purpose), cache_directory() / "data"
    built = kept_pairs(policy, labeller, prompts, recipe.pairs, key, recipe.chat, directory)
    counts = ", ".join(f"{name} {value:.4g}" for name, value in built.statistics.items() if value)
    logger.info("%s pairs: %s", purpose, counts)
    return built
