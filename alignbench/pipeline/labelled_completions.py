"""Labelled completions of a recipe: of its training prompts as its budget pays for them, drawn as for pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignbench.pipeline.training_draws import Built, draws_of, paid_prompts
from alignbench.records import LabelledCompletion, Prompt, Scorer
from datasets_prep.labelled_completions import label_completions
from datasets_prep.settings import LabelledCompletionSettings

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.recipe import Recipe


def labelled_completions(
    recipe: Recipe, policy: LanguageModel, labeller: Scorer, prompts: Sequence[Prompt]
) -> Built[LabelledCompletion]:
    """Returns wanted and unwanted completions of as many prompts as are wanted, or as the budget pays for."""
    settings = recipe.labelled_completions or LabelledCompletionSettings()
    both = recipe.method.facts.reads_labels
    paid = paid_prompts(recipe, prompts)
    drawn = draws_of(recipe, policy, labeller, paid, "training")
    labelled, statistics = label_completions(paid, drawn.completions, drawn.rewards, settings, both_kinds=both)
    return Built(tuple(labelled), statistics | {"n_cut": drawn.n_cut}, drawn).said_as("labelled completions")
