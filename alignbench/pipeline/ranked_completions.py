"""Ranked completions of a recipe: of its training prompts as its budget pays for them, drawn as for pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignbench.pipeline.training_draws import Built, draws_of, paid_prompts
from alignbench.records import Prompt, RankedCompletions, Scorer
from datasets_prep.ranked_completions import rank_completions

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.recipe import Recipe


def ranked_completions(
    recipe: Recipe, policy: LanguageModel, labeller: Scorer, prompts: Sequence[Prompt]
) -> Built[RankedCompletions]:
    """Returns the completions of as many prompts as are wanted, or as the budget pays for, best first."""
    paid = paid_prompts(recipe, prompts)
    drawn = draws_of(recipe, policy, labeller, paid, "training")
    ranked, statistics = rank_completions(paid, drawn.completions, drawn.rewards)
    return Built(tuple(ranked), statistics | {"n_cut": drawn.n_cut}, drawn).said_as("ranked completions")
