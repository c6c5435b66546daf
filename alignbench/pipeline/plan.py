"""What runs, in which order, and where it lies: recipes with those that they build on, each run once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignbench.errors import UsageError
from alignbench.recipe.recipe import Recipe
from alignbench.recipe.sweeps import TUNING
from alignbench.results import layout

Key = tuple[str, int]
Upstreams = Mapping[str, "Planned"]


@dataclass(frozen=True, slots=True)
class Planned:
    """One run to come, with the runs it builds on."""

    recipe: Recipe
    run_hash: str
    upstream: Upstreams
    """By role: `policy`, `reward`."""

    @property
    def key(self) -> Key:
        """Recipe name and seed."""
        return self.recipe.name, self.recipe.seed


def folder(recipe: Recipe, results: Path) -> Path:
    """Returns where a recipe's runs go: those measured on validation prompts apart, out of sight of `compare`."""
    return results / TUNING if recipe.evaluation.split == "validation" else results


def run_path(recipe: Recipe, results: Path) -> Path:
    """Returns the directory of a recipe's complete run."""
    return layout.run_path(folder(recipe, results), recipe.name, recipe.seed)


def plan(recipes: Sequence[Recipe]) -> list[Planned]:
    """Orders recipes so that everything they build on comes first, each run once."""
    planned: dict[Key, Planned] = {}

    def visit(recipe: Recipe) -> Planned:
        key = (recipe.name, recipe.seed)
        if recipe.sweep is not None:
            raise UsageError(f"{recipe.name} is to be tuned first: run its suite by `alignbench.pipeline.tuning.run`")
        if key not in planned:
            upstream: dict[str, Planned] = {role: visit(other) for role, other in recipe.upstream().items()}
            for role, other in upstream.items():
                recipe.require_same_data(role, other.recipe)
            recipe.check_names()
            run_hash = recipe.run_hash({role: other.run_hash for role, other in upstream.items()})
            planned[key] = Planned(recipe, run_hash, upstream)
        elif planned[key].recipe != recipe:
            raise UsageError(
                f"{recipe.name}, seed {recipe.seed}: two recipes of this name are to run with different settings, "
                "one of them because others build on it; list it once in the suite, or give it another name"
            )
        return planned[key]

    for recipe in recipes:
        visit(recipe)
    return list(planned.values())
