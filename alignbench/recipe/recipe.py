"""Recipes: YAML to typed settings, all problems reported at once, before any model library is imported.

Precedence, lowest first: the file that a recipe extends, the recipe, the overrides of a suite, the overrides of the
suite's entry, `--set`, `--name` and `--seed`. Mappings merge; lists, scalars and null replace.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PrivateAttr, ValidationError, create_model

from alignbench.errors import Problem, RecipeError, UsageError, did_you_mean
from alignbench.methods.registry import known_methods, method_class
from alignbench.recipe.blocks import RecipeSettings
from alignbench.recipe.identity import run_hash
from alignbench.recipe.layers import Layer, display, expand, find_recipe, merge, read_file
from alignbench.recipe.problems import schema_problems, shown, where
from alignbench.recipe.suites import Entry, Suite, read_suite
from alignbench.recipe.sweeps import TUNING, Point, Sweep, nested, sweep_problems
from alignbench.recipe.yaml import dump_yaml, parse_set

Role = Literal["reward", "policy"]
"""What an upstream run gives: the reward model of the training, or the policy that it starts from."""


class Recipe(RecipeSettings):
    """One run, with everything that decides its numbers. Made by `load`."""

    method_name: ClassVar[str] = ""
    """The method's name, as in the file: `method.name`."""

    _source: _Source = PrivateAttr()

    def resolved(self) -> dict[str, Any]:
        """Returns the recipe as it would stand in a file, with every default written out."""
        values = self.model_dump(mode="json")
        return values | {"method": {"name": self.method_name, **values["method"]}}

    def to_yaml(self) -> str:
        """Returns the resolved recipe as YAML; loading it gives an equal recipe."""
        return dump_yaml(self.resolved())

    def run_hash(self, upstream_hashes: Mapping[str, str]) -> str:
        """Returns the identity of the run: the hash of the settings that are declared to belong to it.

        Args:
            upstream_hashes: Run hash of each upstream recipe by role, as `upstream` gives them; they stand in for
                the names of these recipes.
        """
        return run_hash(self.resolved(), upstream_hashes)

    def upstream(self) -> dict[Role, Recipe]:
        """Returns the recipes that must have run before this one, by role, with this recipe's seed.

        Each is sought among the recipes loaded together with this one, then beside its file, then among the shipped
        ones. One that was not loaded together with it gets the same overrides and `--set`, except name and method.

        Raises:
            UsageError: if a recipe is not found.
            RecipeError: if a recipe has problems of its own.
        """
        names = {"policy": self.policy.run, "reward": self.reward.run if self.reward else None}
        return {role: self._source.upstream(role, name).build(self.seed) for role, name in names.items() if name}  # type: ignore[misc]

    def require_same_data(self, role: str, other: Recipe) -> None:
        """UsageError where an upstream recipe may train on prompts that this one holds out."""
        another = None
        if other.data != self.data:
            another = "`data` block"
        elif self.data.on_leak == "drop" and any(
            getattr(other.evaluation, key) != getattr(self.evaluation, key) for key in ("prompts", "neutral")
        ):
            another = "evaluation.prompts or evaluation.neutral, which data.on_leak goes by"
        if another is not None:
            raise UsageError(
                f"{self.name}: {role}.run: {other.name} has another {another}, so it may have trained on prompts that "
                f"{self.name} holds out; give both the same"
            )

    def check_names(self) -> None:
        """UsageError where a label that is called harmless, or harmful, says the opposite by its own name."""
        if self.reward is not None:
            self.reward.check_names()
        for scorer in self.evaluation.scorers:
            if not isinstance(scorer, str):
                scorer.check_names()

    @property
    def sweep(self) -> Sweep | None:
        """How it is to be tuned before it runs; None where it runs as it stands."""
        return self._source.sweep

    def trial(self, number: int, point: Point) -> Recipe:
        """Returns a trial of its sweep: with the settings of a point, judged once, on validation prompts."""
        assert self.sweep is not None
        own = {
            "name": f"{self.name}.trial{number}",
            "seed": self.sweep.settings.seed,
            "evaluation": {"split": "validation", "evaluate_every": 0},
        }
        return self._source.with_point(nested(point), own).build()

    def tuned(self, point: Point) -> Recipe:
        """Returns the recipe with what its sweep selected. From now on, so do those loaded with it that build on it."""
        self._source.together[self.name] = source = self._source.with_point(nested(point), {})
        return source.build(self.seed)


@dataclass(frozen=True)
class _Source:
    """A recipe's file and what is laid over it. All sources are equal: where settings came from is not a setting."""

    path: Path = field(compare=False)
    layers: tuple[Layer, ...] = field(compare=False)
    """Laid over the file, lowest first."""
    together: dict[str, _Source] = field(compare=False)
    """Recipes loaded by the same call, by name."""
    seeds: tuple[int, ...] = field(default=(), compare=False)
    """Seeds of its suite."""
    sweep: Sweep | None = field(default=None, compare=False)
    """How its suite tunes it, until that is done."""
    own: tuple[Layer, ...] = field(default=(), compare=False)
    """What its sweep sets; laid over everything, and no affair of what it builds on."""

    def with_point(self, point: dict[str, Any], more: dict[str, Any]) -> _Source:
        """Returns the source with settings of its sweep's grid, and others."""
        assert self.sweep is not None
        over = (Layer(self.sweep.place, point, Path()), Layer(self.sweep.place, more, Path()))
        return replace(self, own=over, sweep=None)

    def all_layers(self) -> list[Layer]:
        """Returns every layer, lowest first, with extended files in their places."""
        own = Layer(display(self.path), read_file(self.path), self.path.parent)
        return [part.with_located_files() for layer in (own, *self.layers) for part in expand(layer)]

    def build(self, seed: int | None = None) -> Recipe:
        """Validates the recipe; RecipeError with all its problems."""
        layers = self.all_layers()
        if seed is not None:
            layers.append(Layer("--seed", {"seed": seed}, Path()))
        layers.extend(self.own)
        recipe = _validate(merge(layers), layers)
        recipe._source = self
        return recipe

    def upstream(self, role: str, name: str) -> _Source:
        """Returns the recipe of this name that this one depends on."""
        if name in self.together:
            return self.together[name]
        # The resolved recipe of a run, RECIPE/seedN/FILE, depends on the run beside it: NAME/seedN/FILE.
        results = self.path.parent.parent.parent
        results = results.parent if results.name == TUNING else results
        path = results / name / self.path.parent.name / self.path.name
        if not (self.path.parent.name.startswith("seed") and path.is_file()):
            path = find_recipe(name, self.path.parent, where=f"{display(self.path)}: {role}.run")
        own = ("name", "description", "method", "seed", "reward.run", "policy.run")
        return _Source(path, tuple(layer.without(*own) for layer in self.layers), self.together)


def load(
    arguments: Sequence[str], sets: Sequence[str] = (), seeds: Sequence[int] = (), name: str | None = None
) -> list[Recipe]:
    """Loads recipes and suites.

    Args:
        arguments: Paths or shipped names.
        sets: `key=value`, laid over every recipe.
        seeds: One run of every recipe for each; they replace the seeds of recipes and suites.
        name: Another name for the one recipe.

    Returns:
        One recipe per recipe and seed, in order. What they depend on is not among them: see `Recipe.upstream`.

    Raises:
        UsageError: if a file is not found.
        RecipeError: with every problem found; a syntax error comes alone.
    """
    over = [Layer("--set", parse_set(assignment), Path.cwd()) for assignment in sets]
    over += [Layer("--name", {"name": name}, Path.cwd())] if name is not None else []
    for layer in over:
        if "extends" in layer.values:
            raise RecipeError([Problem("--set extends", shown(layer.values["extends"]), "a file that extends it")])
    together: dict[str, _Source] = {}
    sources = [source for argument in arguments for source in _open(argument, tuple(over), together)]
    if name is not None and len(sources) > 1:
        raise UsageError(f"--name {name}: names one recipe, and {len(sources)} were given")
    problems: list[Problem] = []
    recipes: dict[tuple[str, int], Recipe] = {}
    for source in sources:
        checked = source.sweep is None
        for recipe in _build_seeds(source, seeds, "seed" in merge(over), problems):
            if not checked:
                problems += sweep_problems(recipe, merge(over))
                checked = True
            together.setdefault(recipe.name, source)
            earlier = recipes.setdefault((recipe.name, recipe.seed), recipe)
            if earlier != recipe or earlier.sweep != recipe.sweep:
                taken = f"{recipe.name!r}, the name of {display(earlier._source.path)} as well"
                problems.append(Problem(f"{display(source.path)}: name", taken, "a name of its own for every recipe"))
    for recipe in recipes.values():
        problems.extend(_upstream_problems(recipe, ()))
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))
    return list(recipes.values())


def _build_seeds(source: _Source, seeds: Sequence[int], is_set: bool, problems: list[Problem]) -> Iterator[Recipe]:
    """Yields the recipe for each seed, or with the one that `--set` gave it; its problems go to the list."""
    for seed in dict.fromkeys(seeds or (() if is_set else source.seeds)) or [None]:
        try:
            yield source.build(seed)
        except RecipeError as error:
            problems.extend(error.problems)


def _upstream_problems(recipe: Recipe, before: tuple[str, ...]) -> list[Problem]:
    """Follows what a recipe depends on, down to the start."""
    place = f"{display(recipe._source.path)}: {{}}.run"
    if recipe.name in before:
        return [Problem(place.format("reward"), f"a circle: {' > '.join((*before, recipe.name))}", "an earlier recipe")]
    try:
        upstream = recipe.upstream()
    except RecipeError as error:
        return list(error.problems)
    problems = []
    for role, other in upstream.items():
        gives = "reward" if other.method.produces == "reward_model" else "policy"
        if gives != role:
            wanted = "a recipe that trains a reward model" if role == "reward" else "a recipe that trains a policy"
            problems.append(Problem(place.format(role), f"{other.name}, which gives a {gives}", wanted))
        else:
            problems += _upstream_problems(other, (*before, recipe.name))
    return problems


def _open(argument: str, over: tuple[Layer, ...], together: dict[str, _Source]) -> list[_Source]:
    """Returns the source of a recipe, or those of a suite's entries."""
    path = find_recipe(argument, Path.cwd())
    values = read_file(path)
    if "recipes" not in values:
        return [_Source(path, over, together)]
    suite = read_suite(path, values)
    label, folder = display(path), path.parent
    shared = Layer(f"{label}: overrides", suite.overrides, folder)
    sources = []
    for position, item in enumerate(suite.recipes):
        entry = Entry(recipe=item) if isinstance(item, str) else item
        place = f"{label}: recipes.{position}"
        changes = entry.overrides | ({} if entry.name is None else {"name": entry.name})
        layers = (shared, Layer(f"{place}.overrides", changes, folder), *over)
        file = find_recipe(entry.recipe, folder, where=f"{place}")
        if "recipes" in read_file(file):
            raise RecipeError([Problem(place, f"the suite {entry.recipe}", "a recipe; list the suite's recipes here")])
        sources.append(_Source(file, layers, together, suite.seeds))
    return sources if suite.sweep is None else _with_sweeps(suite, label, sources)


def _with_sweeps(suite: Suite, label: str, sources: Sequence[_Source]) -> list[_Source]:
    """Gives every source its grid. What has no hyperparameters has none, and neither have reward models."""
    assert suite.sweep is not None
    problems: list[Problem] = []
    found: list[_Source] = []
    left = dict.fromkeys(suite.sweep.grids)
    for source in sources:
        values = merge(source.all_layers())
        name, method = values.get("name"), values.get("method")
        kind = method.get("name") if isinstance(method, dict) else None
        trainer = method_class(kind) if kind in known_methods() else None
        tunable = trainer is not None and trainer.produces == "policy" and bool(fields(trainer))
        place = f"{label}: sweep.grids.{name}"
        if isinstance(name, str) and name in suite.sweep.grids:
            left.pop(name, None)
            if trainer is not None and not tunable:
                why = "a reward model, which no metric of policies judges" if fields(trainer) else "without settings"
                problems.append(Problem(place, f"a grid for {name}: {why}", "it left out"))
            source = replace(source, sweep=Sweep(place, suite.name, name, suite.sweep))
        elif tunable:
            problems.append(Problem(place, "nothing", f"a grid: every trained recipe gets {suite.sweep.trials} trials"))
        found.append(source)
    known = [str(merge(source.all_layers()).get("name")) for source in sources]
    problems += [
        Problem(f"{label}: sweep.grids.{name}", "a grid for no recipe of the suite", f"one of {', '.join(known)}")
        for name in left
    ]
    if problems:
        raise RecipeError(problems)
    return found


@cache
def _schema(method: str) -> type[Recipe]:
    """Returns the model of recipes of a method, so that its hyperparameters are validated with all the rest."""
    schema = create_model(method, __base__=Recipe, method=(method_class(method), ...))
    schema.method_name = method
    return schema


def _validate(values: dict[str, Any], layers: Sequence[Layer]) -> Recipe:
    problems = [Problem(where(path, layers), got, expected) for path, got, expected in _rule_breaks(values)]
    schema = Recipe
    method = values.get("method")
    if isinstance(method, dict) and isinstance(method.get("name"), str) and method["name"] in known_methods():
        schema = _schema(method["name"])
        values = values | {"method": {key: value for key, value in method.items() if key != "name"}}
    try:
        # As JSON, because there a list may stand for a tuple while everything else stays strict.
        recipe = schema.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise RecipeError([*problems, *schema_problems(error, values, schema, layers)]) from error
    if problems:
        raise RecipeError(problems)
    return recipe


def _rule_breaks(values: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Yields key, got and expected for every rule across blocks that is broken; wrong types are left to the schema."""
    method, reward, evaluation = values.get("method"), values.get("reward"), values.get("evaluation")
    if isinstance(method, dict):
        yield from _method_rule_breaks(method.get("name"), reward)
    elif "method" in values:
        name = method if method in known_methods() else "ppo"
        yield ("method",), shown(method), f"a mapping with the method's name, such as {{name: {name}}}"
    scorers = evaluation.get("scorers") if isinstance(evaluation, dict) else None
    classifier = reward.get("classifier") if isinstance(reward, dict) else None
    if isinstance(scorers, list) and "reward" in scorers and classifier is None:
        expected = "reward.classifier and reward.label, or `reward` left out of the scorers"
        yield ("evaluation", "scorers"), "`reward` without a reward classifier", expected
    for block in ("policy", "reward"):
        run = values[block].get("run") if isinstance(values.get(block), dict) else None
        if run is not None and run == values.get("name"):
            yield (block, "run"), shown(run), "another recipe: a run cannot depend on itself"


def _method_rule_breaks(name: object, reward: object) -> Iterator[tuple[tuple[str, ...], str, str]]:
    known = known_methods()
    if not isinstance(name, str):
        yield ("method", "name"), "nothing" if name is None else shown(name), f"one of {', '.join(known)}"
    elif name not in known:
        yield ("method", "name"), shown(name), f"one of {', '.join(known)}{did_you_mean(name, known)}"
    elif reward is None:
        method = method_class(name)
        if method.needs_reward or "preference_pairs" in method.needs:
            yield ("reward",), "nothing", f"a reward block, for the method {name}"
