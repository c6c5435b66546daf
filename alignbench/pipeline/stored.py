"""What stored runs say of how they were made, as the pipeline takes it."""

from __future__ import annotations

from pathlib import Path

from alignbench.recipe.layers import Layer
from alignbench.recipe.recipe import Recipe, recipe_of
from alignbench.results import layout
from alignbench.results.reader import StoredRun


def recipe_of_run(run: StoredRun) -> Recipe:
    """Returns the recipe of a stored run; RecipeError where this release cannot read it."""
    path = run.path / layout.RECIPE_FILE
    return recipe_of([Layer(str(path), dict(run.recipe), Path())])
