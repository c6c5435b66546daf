"""Suites: files that list recipes to compare, what is laid over them, and how they are tuned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from alignbench.errors import Problem, RecipeError
from alignbench.recipe.layers import Layer, display
from alignbench.recipe.problems import schema_problems, shown
from alignbench.recipe.scorers import Name
from alignbench.recipe.sweeps import SweepSettings
from alignbench.records import Settings
from alignbench.scorers.base import Text


class Entry(Settings):
    """One recipe of a suite, with changes."""

    recipe: Text
    """Name or path."""
    name: Name | None = None
    """Another name for it, so that a recipe can be there twice; null: its own."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Laid over this recipe, after those of the suite; may extend a file."""


class Suite(Settings):
    """A comparison: recipes that differ in little more than the method."""

    name: Name
    """Names the suite; runs have the names of their recipes."""
    description: str = ""
    """One line for people."""
    recipes: tuple[Text | Entry, ...] = Field(min_length=1)
    """Names or paths, sought beside the suite and then among the shipped recipes."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Laid over every recipe; may extend a file."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """One run of every recipe for each; empty: the recipes' own."""
    sweep: SweepSettings | None = None
    """How the recipes are tuned; null: they run as they are."""


def read_suite(path: Path, values: dict[str, Any]) -> Suite:
    """Validates a suite. What would make its runs differ in name, method or seed does not belong in its overrides."""
    layer = Layer(display(path), values, path.parent)
    try:
        suite = Suite.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise RecipeError(schema_problems(error, values, Suite, [layer])) from error
    advice = {"name": "`name` of an entry", "seed": "`seeds` of the suite", "method": "`overrides` of one entry"}
    blocks = {"overrides": (suite.overrides, advice)}
    for position, entry in enumerate(suite.recipes):
        if isinstance(entry, Entry):
            blocks[f"recipes.{position}.overrides"] = (entry.overrides, {key: advice[key] for key in ("name", "seed")})
    problems = [
        Problem(f"{layer.label}: {place}.{key}", shown(overrides[key]), f"it in the {refused[key]}")
        for place, (overrides, refused) in blocks.items()
        for key in refused
        if key in overrides
    ]
    if problems:
        raise RecipeError(problems)
    return suite
