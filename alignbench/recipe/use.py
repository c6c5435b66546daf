"""What a recipe says that its method makes no use of: blocks that nothing reads, and budget that is not spent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from alignbench.methods.base import learned_kinds

if TYPE_CHECKING:
    from alignbench.recipe.blocks import RecipeSettings


def unread_blocks(recipe: RecipeSettings, method_name: str) -> Iterator[str]:
    """Yields a sentence on every block, or source of data, that the method with its settings does not learn from."""
    kinds = learned_kinds(recipe.method)
    if not recipe.method.facts.reads_labels:
        kinds -= {"labelled_completions"}
    given = {
        "demonstrations": ("demonstrations", recipe.demonstrations is not None),
        "labelled_completions": ("labelled_completions", recipe.labelled_completions is not None),
        "pairs.source": ("preference_pairs", recipe.pairs.source is not None),
    }
    for key, (kind, is_there) in given.items():
        if is_there and kind not in kinds:
            mixed_in = "; method.ptx_coef above 0 would mix them in" if hasattr(recipe.method, "ptx_coef") else ""
            hint = mixed_in if kind == "demonstrations" else ""
            yield f"{key} has no effect: the method {method_name} does not learn from {_words(kind)}{hint}"


def least_budget(recipe: RecipeSettings) -> tuple[int, str]:
    """Returns the fewest completions that training can do with, and what they are."""
    kinds, pairs, shown = learned_kinds(recipe.method), recipe.pairs, recipe.demonstrations
    drawn = kinds & {"labelled_completions", "ranked_completions"}
    draws = drawn or ("preference_pairs" in kinds and pairs.source is None)
    least = (recipe.method.facts.completions_of_a_step(recipe.method), "one batch (method.batch_size)")
    if draws or ("demonstrations" in kinds and shown is not None and shown.take != "data"):
        times = "one prompt" if pairs.n_prompts is None else "pairs.n_prompts"
        of_pairs = f"pairs.completions_per_prompt times {times}"
        least = max(least, (pairs.completions_per_prompt * (pairs.n_prompts or 1), of_pairs))
    return least


def unspent_budget(recipe: RecipeSettings) -> Iterator[str]:
    """Yields a sentence where the budget is no whole number of training steps."""
    a_step, budget = recipe.method.facts.completions_of_a_step(recipe.method), recipe.budget.completions
    left = budget % a_step
    if left:
        yield f"{left} of budget.completions {budget} are not spent: a training step takes {a_step}"


def _words(kind: str) -> str:
    return kind.replace("_", " ")
