"""Preference pairs of a recipe: of training prompts as its budget pays for them, or stored; of held-out prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from alignbench.errors import DataError
from alignbench.pipeline.feedback import judged_pairs
from alignbench.pipeline.prompt_limits import longest_trained_on
from alignbench.pipeline.revisions import revised_pairs
from alignbench.pipeline.stored_texts import as_drawn, fits, prompts_of_source, source_of
from alignbench.pipeline.training_draws import Built, draws_of, paid_prompts
from alignbench.records import PreferencePair, Prompt, Scorer
from datasets_prep.preference_pairs import build_pairs, kept_pairs
from datasets_prep.prepared import HeldOut, PreparedData
from datasets_prep.prompt_lengths import prompt_length
from datasets_prep.settings import PairSettings, PromptSettings
from datasets_prep.stored_pairs import read_stored_pairs

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.recipe import Recipe

Pairs = Built[PreferencePair]


def training_pairs(
    recipe: Recipe, policy: LanguageModel, labeller: Scorer | None, data: PreparedData, heldout: Sequence[Prompt]
) -> Pairs:
    """Returns pairs of as many prompts as are wanted, or as the budget pays for, by reward or feedback; or stored ones.

    Args:
        recipe: The recipe.
        policy: The policy that training starts from.
        labeller: Scores what is drawn; None where pairs are stored.
        data: The prompts of the recipe.
        heldout: The prompts of the evaluation.
    """
    if recipe.pairs.source is not None:
        return _stored(recipe, recipe.pairs.source, policy, data, heldout).said_as("stored pairs")
    assert labeller is not None
    if recipe.revisions is not None:
        return revised_pairs(recipe, policy, labeller, paid_prompts(recipe, data.train))
    if recipe.feedback is not None:
        return judged_pairs(recipe, policy, labeller, paid_prompts(recipe, data.train))
    return _pairs(recipe, policy, labeller, paid_prompts(recipe, data.train), recipe.pairs, "training")


def _stored(
    recipe: Recipe,
    source: str | PromptSettings,
    policy: LanguageModel,
    data: PreparedData,
    heldout: Sequence[Prompt],
) -> Pairs:
    key, settings, own = "pairs.source", source_of(recipe, source), recipe.pairs
    prompts = prompts_of_source(recipe, settings, policy, data, heldout, key=key)
    rows, statistics = read_stored_pairs(
        settings, own, prompts[: own.n_prompts], key=key, conversations=recipe.chat is not None
    )
    pairs, n_of_prompt = list[PreferencePair](), Counter[str]()
    for row in rows:
        first = n_of_prompt[row.prompt.id]
        sides = (row.chosen, row.rejected)
        chosen, rejected = (
            as_drawn(row.prompt, text, first + i, policy, own.max_tokens) for i, text in enumerate(sides)
        )
        n_of_prompt[row.prompt.id] += 2
        if fits(row.prompt, chosen, policy) and fits(row.prompt, rejected, policy):
            pairs.append(PreferencePair(row.prompt, chosen, rejected, row.chosen_reward, row.rejected_reward))
    if not pairs:
        raise DataError(f"{key}: none of {len(rows)} pairs fits the policy's context; set pairs.max_tokens")
    kept, of_kept = kept_pairs(pairs, own)
    return Built(tuple(kept), {**statistics, "n_too_long": len(rows) - len(pairs), **of_kept}, None)


def heldout_pairs(recipe: Recipe, policy: LanguageModel, labeller: Scorer, heldout: HeldOut) -> tuple[Pairs, HeldOut]:
    """Returns one pair of all held-out prompts, whatever the budget, and the prompts that they were drawn for.

    A prompt that leaves no room for completions of pairs is left out, and counted.
    """
    longest, tokenizer = longest_trained_on(recipe, policy), policy.text_tokenizer
    prompts = tuple(prompt for prompt in heldout.prompts if prompt_length(tokenizer, prompt) <= longest)
    n_lost = len(heldout.prompts) - len(prompts)
    rows = heldout.rows
    if n_lost:
        reason = {f"longer than {longest} tokens, what completions of pairs leave of the context": n_lost}
        rows = replace(rows, left_out={**rows.left_out, **reason})
    settings = recipe.pairs.model_copy(update={"take": "best_against_worst"})  # a pair is a prompt in the evaluation
    return _pairs(recipe, policy, labeller, prompts, settings, "held-out"), HeldOut(prompts, rows)


def _pairs(
    recipe: Recipe,
    policy: LanguageModel,
    labeller: Scorer,
    prompts: Sequence[Prompt],
    settings: PairSettings,
    purpose: str,
) -> Pairs:
    drawn = draws_of(recipe, policy, labeller, prompts, purpose)
    pairs, statistics = build_pairs(prompts, drawn.completions, drawn.rewards, settings)
    return Built(tuple(pairs), statistics | {"n_cut": drawn.n_cut}, drawn).said_as(f"{purpose} pairs")
