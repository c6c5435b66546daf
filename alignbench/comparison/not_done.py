"""What a comparison has not done, so that nobody reads it into the table: tuning, further seeds, other prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alignbench.comparison.pooling import RecipeRuns

KNOBS = (
    *("learning_rate", "kl_coef", "kl_target", "beta", "alpha", "gamma", "weight", "rank_weight", "coefficient"),
    *("strength", "scale", "completions_per_prompt", "quantiles", "n"),
)
"""Settings of methods that decide how far a policy moves, in the order in which they are named."""
_NOT_OF = {"gamma": ("gae_lambda",), "completions_per_prompt": ("kl_coef",)}
"""Where a method has one of these settings beside it, the knob means something else there, and is left as it is."""


def knobs(settings: Mapping[str, object]) -> dict[str, object]:
    """Returns the settings of a method that decide how far it goes; those that are off are left out."""
    found = {}
    for name in KNOBS:
        value = settings.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and not any(other in settings for other in _NOT_OF.get(name, ())):
            found[name] = value
    return found


def untuned(recipes: Sequence[RecipeRuns]) -> dict[str, dict[str, object]]:
    """Returns the knobs of the trained recipes that no sweep has tuned, by recipe."""
    found = {}
    for one in recipes:
        is_tuned = any(upstream.role == "tuning" for run, _ in one.runs for upstream in run.status.upstream)
        method = one.runs[0][0].recipe.get("method")
        if one.varies and not is_tuned:
            found[one.recipe] = knobs(method) if isinstance(method, Mapping) else {}
    return found


def not_done(recipes: Sequence[RecipeRuns]) -> tuple[str, ...]:
    """Returns a sentence for each thing that was not done, the longest last."""
    trained = [one for one in recipes if one.varies]
    said = [_seeds(trained), _prompts(trained), _tuning(recipes, len(trained))]
    return tuple(one for one in said if one)


def _tuning(recipes: Sequence[RecipeRuns], n_trained: int) -> str:
    left = untuned(recipes)
    if not left:
        return ""
    alike: dict[str, list[str]] = {}
    for recipe, found in left.items():
        words = ", ".join(f"{name.replace('learning_rate', 'lr')} {value:g}" for name, value in found.items())
        alike.setdefault(words, []).append(recipe)
    said = "; ".join(f"{', '.join(names)}: {words}" for words, names in alike.items() if words)
    nobody = len(left) == n_trained
    heading = "Not tuned" if nobody else f"Not tuned, unlike the other {n_trained - len(left)}"
    names = "" if nobody or said else f": {', '.join(left)}"
    return f"{heading}: {said}." if said else f"{heading}{names}."


def _seeds(trained: Sequence[RecipeRuns]) -> str:
    numbers = {len(one.runs) for one in trained}
    fewest = [one.recipe for one in trained if len(one.runs) == min(numbers)]
    if numbers == {1}:
        return "One seed: another may come out differently."
    if numbers and min(numbers) == 1:
        return f"One seed of {', '.join(fewest)}: another may come out differently."
    if numbers and min(numbers) == 2:
        of = "" if len(numbers) == 1 else f" of {', '.join(fewest)}"
        return f"Two seeds{of}: the spread between seeds is known from two runs."
    return ""


def _prompts(trained: Sequence[RecipeRuns]) -> str:
    """Says that the held-out prompts come from where the training prompts come from."""
    for one in trained:
        data, evaluation = (one.runs[0][0].recipe.get(block) for block in ("data", "evaluation"))
        if not isinstance(data, Mapping) or not isinstance(evaluation, Mapping):
            return ""
        if evaluation.get("prompts") is not None or data.get("heldout") is not None:
            return ""
    return "Prompts are held out of the training source: no others were tried." if trained else ""
