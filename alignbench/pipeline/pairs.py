"""Preference pairs of a recipe: of its training prompts as its budget pays for them, and of its held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from alignbench.pipeline.prompt_limits import longest_trained_on
from alignbench.pipeline.training_draws import Built, draws_of, paid_prompts
from alignbench.records import PreferencePair, Prompt, Scorer
from datasets_prep.preference_pairs import build_pairs
from datasets_prep.prepared import HeldOut
from datasets_prep.prompt_lengths import prompt_length

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.recipe import Recipe

Pairs = Built[PreferencePair]


def training_pairs(recipe: Recipe, policy: LanguageModel, labeller: Scorer, prompts: Sequence[Prompt]) -> Pairs:
    """Returns preference pairs of as many prompts as are wanted, or as the budget pays for."""
    return _pairs(recipe, policy, labeller, paid_prompts(recipe, prompts), "training")


def heldout_pairs(recipe: Recipe, policy: LanguageModel, labeller: Scorer, heldout: HeldOut) -> tuple[Pairs, HeldOut]:
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


def _pairs(recipe: Recipe, policy: LanguageModel, labeller: Scorer, prompts: Sequence[Prompt], purpose: str) -> Pairs:
    drawn = draws_of(recipe, policy, labeller, prompts, purpose)
    pairs, statistics = build_pairs(prompts, drawn.completions, drawn.rewards, recipe.pairs)
    return Built(tuple(pairs), statistics | {"n_cut": drawn.n_cut}, drawn).said_as(f"{purpose} pairs")
