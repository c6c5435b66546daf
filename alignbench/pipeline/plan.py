"""What runs, in which order, where it lies, and what became of it: recipes with those that they build on, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alignbench.errors import AlignbenchError, UsageError
from alignbench.pipeline.inputs import inputs_of
from alignbench.recipe.loading import LoadedRecipe
from alignbench.recipe.recipe import Recipe
from alignbench.recipe.sweeps import TUNING
from alignbench.results import layout
from alignbench.results.writer import RunDirectory

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Planned:
    """One run to come, with the runs it builds on."""

    recipe: Recipe
    run_hash: str
    upstream: Mapping[str, Planned]
    """By role: `policy`, `reward`, and those of `builds_on`."""

    @property
    def key(self) -> Key:
        """Recipe name and seed."""
        return self.recipe.name, self.recipe.seed


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one planned run."""

    recipe: str
    seed: int
    state: Literal["done", "kept", "failed", "spent"]
    """`kept`: it was complete already. `spent`: a trial that failed, which its sweep has outlived."""
    path: Path | None = None
    error: AlignbenchError | None = None

    def __str__(self) -> str:
        said = {
            "done": f"done, {self.path}",
            "kept": f"already complete, {self.path}",
            "failed": f"failed: {self.error}",
            "spent": f"failed, and counts as a trial: {self.error}",
        }
        resumable = self.state == "failed" and self.path is not None
        more = f" (kept in {self.path}; the same command goes on from its last checkpoint)" if resumable else ""
        return f"{self.recipe}, seed {self.seed}: {said[self.state]}{more}"


def folder(recipe: Recipe, results: Path) -> Path:
    """Returns where a recipe's runs go: those measured on validation prompts apart, out of sight of `compare`."""
    return results / TUNING if recipe.evaluation.split == "validation" else results


def run_path(recipe: Recipe, results: Path) -> Path:
    """Returns the directory of a recipe's complete run."""
    return layout.run_path(folder(recipe, results), recipe.name, recipe.seed)


def plan(recipes: Sequence[LoadedRecipe]) -> list[Planned]:
    """Orders recipes so that everything they build on comes first, each run once."""
    planned: dict[Key, Planned] = {}

    def visit(loaded: LoadedRecipe) -> Planned:
        recipe = loaded.recipe
        key = (recipe.name, recipe.seed)
        if loaded.sweep is not None:
            raise UsageError(f"{recipe.name} is to be tuned first: run its suite by `alignbench.pipeline.tuning.run`")
        if key not in planned:
            upstream: dict[str, Planned] = {role: visit(other) for role, other in loaded.upstream.items()}
            for role, other in upstream.items():
                recipe.require_same_data(role, other.recipe)
            recipe.check_names()
            planned[key] = Planned(recipe, loaded.run_hash, upstream)
        elif planned[key].recipe != recipe:
            raise UsageError(
                f"{recipe.name}, seed {recipe.seed}: two recipes of this name are to run with different settings, "
                "one of them because others build on it; list it once in the suite, or give it another name"
            )
        return planned[key]

    for loaded in recipes:
        visit(loaded)
    return list(planned.values())


def upstream_of(planned: Planned) -> dict[Key, Planned]:
    """Returns the runs that a run builds on, with those that they build on."""
    found: dict[Key, Planned] = {}
    for one in planned.upstream.values():
        found |= {one.key: one, **upstream_of(one)}
    return found


def on_the_way(planned: Mapping[Key, Planned]) -> dict[Key, int]:
    """Returns how much there is to do from each run on to the last of those that build on it, by the longest way.

    A rough measure, to begin first what others will be waiting for: texts that training reads.
    """
    ways: dict[Key, int] = {}
    for key in reversed(list(planned)):  # what builds on a run stands behind it
        ways[key] = ways.get(key, 0) + _effort(planned[key].recipe)
        for other in planned[key].upstream.values():
            ways[other.key] = max(ways.get(other.key, 0), ways[key])
    return ways


def _effort(recipe: Recipe) -> int:
    """The budget, once for drawing and once for each pass; a little where nothing is trained."""
    method = recipe.method
    if not method.facts.trains:
        return 1
    passes: int = getattr(method, "ppo_epochs", getattr(method, "epochs", 1))
    return 1 + recipe.budget.completions * (1 + passes)


def describe_run(planned: Planned, results: Path, *, force: bool) -> str:
    """One line on what running this would do, without doing it."""
    recipe, place = planned.recipe, folder(planned.recipe, results)
    artifacts = {role: run_path(other.recipe, results) / layout.ARTIFACT for role, other in planned.upstream.items()}
    is_new = force or not any(path(place, *planned.key).exists() for path in (layout.run_path, layout.partial_path))
    inputs = {} if is_new else inputs_of(recipe, artifacts)
    action = RunDirectory.foresee(place, *planned.key, planned.run_hash, inputs=inputs, force=force)
    return f"{recipe.name}, seed {recipe.seed}: {recipe.method_name}, {action} ({planned.run_hash})"
