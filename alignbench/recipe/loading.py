"""Recipes from files: everything is read here, once, and all problems are reported together, before any model library
is imported.

Precedence, lowest first: the file that a recipe extends, the recipe, the overrides of a suite, the overrides of the
suite's entry, `--set`, `--name` and `--seed`. Mappings merge; lists, scalars and null replace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from alignbench.errors import Problem, RecipeError, UsageError
from alignbench.methods.registry import known_methods, method_class
from alignbench.recipe.layers import Layer, display, expand, find_recipe, merge, read_file
from alignbench.recipe.problems import is_set, shown
from alignbench.recipe.recipe import Recipe, recipe_of
from alignbench.recipe.roles import key_of
from alignbench.recipe.suites import Entry, Suite, read_suite
from alignbench.recipe.sweeps import TUNING, Point, Sweep, nested
from alignbench.recipe.yaml import parse_set


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe with all that was loaded with it. A value: nothing is read from the recipe's files any more."""

    recipe: Recipe
    upstream: Mapping[str, LoadedRecipe]
    """By role, what must have run before it, with its own seed."""
    sweep: Sweep | None
    """How it is to be tuned before it runs; None where it runs as it is."""
    layers: tuple[Layer, ...] = field(repr=False, compare=False)
    """What the recipe was merged from, lowest first."""

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name

    @property
    def run_hash(self) -> str:
        """The identity of its run."""
        return self.recipe.run_hash({role: other.run_hash for role, other in self.upstream.items()})

    def upstream_names(self) -> list[str]:
        """Returns the names of everything that it builds on, nearest first."""
        near = self.upstream.values()
        return [*(other.name for other in near), *(name for other in near for name in other.upstream_names())]

    def trial(self, number: int, point: Point) -> LoadedRecipe:
        """Returns a trial of its sweep: with the settings of a point, judged once, on validation prompts."""
        assert self.sweep is not None
        seed = self.sweep.settings.seed
        upstream = {role: other._with_seed(seed) for role, other in self.upstream.items()}
        evaluation = {"split": "validation", "evaluate_every": 0}
        own = {"name": f"{self.name}.trial{number}", "seed": seed, "evaluation": evaluation}
        return replace(self, upstream=upstream)._with(Layer(self.sweep.place, nested(point) | own, Path()), sweep=None)

    def tuned(self, points: Mapping[str, Point]) -> LoadedRecipe:
        """Returns it with what sweeps have selected, by the name of the recipe, here and in what it builds on."""
        upstream = {role: other.tuned(points) for role, other in self.upstream.items()}
        loaded = replace(self, upstream=upstream)
        if self.sweep is None or self.name not in points:
            return loaded
        return loaded._with(Layer(self.sweep.place, nested(points[self.name]), Path()), sweep=None)

    def _with_seed(self, seed: int) -> LoadedRecipe:
        upstream = {role: other._with_seed(seed) for role, other in self.upstream.items()}
        return replace(self, upstream=upstream)._with(Layer("--seed", {"seed": seed}, Path()), sweep=self.sweep)

    def _with(self, layer: Layer, *, sweep: Sweep | None) -> LoadedRecipe:
        """Returns it with a layer over all others; RecipeError where that makes no recipe."""
        layers = (*self.layers, layer)
        return replace(self, recipe=recipe_of(layers), layers=layers, sweep=sweep)


@dataclass(frozen=True)
class _Source:
    """A recipe's file and what is laid over it."""

    path: Path
    over: tuple[Layer, ...]
    """Laid over the file, lowest first."""
    seeds: tuple[int, ...] = ()
    """Seeds of its suite."""
    sweep: Sweep | None = None
    """How its suite tunes it."""

    def layers(self) -> list[Layer]:
        """Reads every layer, lowest first, with extended files in their places."""
        own = Layer(display(self.path), read_file(self.path), self.path.parent)
        return [part.with_located_files() for layer in (own, *self.over) for part in expand(layer)]

    def read(self, seed: int | None = None) -> LoadedRecipe:
        """Reads and validates the recipe, without what it builds on; RecipeError with all its problems."""
        layers = self.layers()
        if seed is not None:
            layers.append(Layer("--seed", {"seed": seed}, Path()))
        return LoadedRecipe(recipe_of(layers), {}, self.sweep, tuple(layers))

    def upstream(self, role: str, name: str) -> _Source:
        """Finds a recipe that this one depends on and that was not loaded together with it."""
        # The resolved recipe of a run, RECIPE/seedN/FILE, depends on the run beside it: NAME/seedN/FILE.
        results = self.path.parent.parent.parent
        results = results.parent if results.name == TUNING else results
        path = results / name / self.path.parent.name / self.path.name
        if not (self.path.parent.name.startswith("seed") and path.is_file()):
            path = find_recipe(name, self.path.parent, where=f"{display(self.path)}: {key_of(role)}")
        own = ("name", "description", "method", "seed", "reward.run", "policy.run", "builds_on")
        return _Source(path, tuple(layer.without(*own) for layer in self.over))


def load(
    arguments: Sequence[str], sets: Sequence[str] = (), seeds: Sequence[int] = (), name: str | None = None
) -> list[LoadedRecipe]:
    """Loads recipes and suites.

    What a recipe builds on is sought among the recipes loaded together with it, then beside its file, then among the
    shipped ones. One that is not loaded together with it gets the same overrides and `--set`, except name and method.

    Args:
        arguments: Paths or shipped names.
        sets: `key=value`, laid over every recipe.
        seeds: One run of every recipe for each; they replace the seeds of recipes and suites.
        name: Another name for the one recipe.

    Returns:
        One recipe per recipe and seed, in order. What they build on is not among them, but in their `upstream`.

    Raises:
        UsageError: if a file is not found.
        RecipeError: with every problem found; a syntax error comes alone.
    """
    over = [Layer("--set", parse_set(assignment), Path.cwd()) for assignment in sets]
    over += [Layer("--name", {"name": name}, Path.cwd())] if name is not None else []
    for layer in over:
        if "extends" in layer.values:
            raise RecipeError([Problem("--set extends", shown(layer.values["extends"]), "a file that extends it")])
    sources = [source for argument in arguments for source in _open(argument, tuple(over))]
    if name is not None and len(sources) > 1:
        raise UsageError(f"--name {name}: names one recipe, and {len(sources)} were given")
    problems: list[Problem] = []
    together: dict[str, _Source] = {}
    found: dict[tuple[str, int], tuple[LoadedRecipe, _Source]] = {}
    for source in sources:
        for number, loaded in enumerate(_read_seeds(source, seeds, merge(over), problems)):
            if loaded.sweep is not None and number == 0:
                problems += _sweep_problems(loaded, loaded.sweep, merge(over))
            together.setdefault(loaded.name, source)
            earlier, its_source = found.setdefault((loaded.name, loaded.recipe.seed), (loaded, source))
            if earlier != loaded:
                taken = f"{loaded.name!r}, the name of {display(its_source.path)} as well"
                problems.append(Problem(f"{display(source.path)}: name", taken, "a name of its own for every recipe"))
    linked = [_linked(loaded, source, together, problems) for loaded, source in found.values()]
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))
    return linked


def _read_seeds(
    source: _Source, seeds: Sequence[int], sets: Mapping[str, Any], problems: list[Problem]
) -> Iterator[LoadedRecipe]:
    """Yields the recipe for each seed, or with the one that `--set` gave it; its problems go to the list."""
    for seed in dict.fromkeys(seeds or (() if "seed" in sets else source.seeds)) or [None]:
        try:
            yield source.read(seed)
        except RecipeError as error:
            problems.extend(error.problems)


def _linked(
    loaded: LoadedRecipe,
    source: _Source,
    together: Mapping[str, _Source],
    problems: list[Problem],
    before: Mapping[str, str] = MappingProxyType({}),
) -> LoadedRecipe:
    """Returns a recipe with what it builds on, down to the start; what is wrong with that goes to the list.

    `before` are the recipes that build on it, and for each the role in which it was followed.
    """
    place = f"{display(source.path)}: {{}}"
    if loaded.name in before:
        circle = f"a circle: {' > '.join((*before, loaded.name))}"
        problems.append(Problem(place.format(key_of(before[loaded.name])), circle, "an earlier recipe"))
        return loaded
    upstream: dict[str, LoadedRecipe] = {}
    for role, name in loaded.recipe.upstream_names().items():
        its_source = together.get(name) or source.upstream(role, name)
        try:
            other = its_source.read(loaded.recipe.seed)
        except RecipeError as error:
            problems += error.problems
            continue
        facts = other.recipe.method.facts
        gives, key = "policy" if facts.gives_policy else "reward", place.format(key_of(role))
        if (gives == "reward") != (role == "reward"):
            wanted = "a recipe that trains a reward model" if role == "reward" else "a recipe that trains a policy"
            problems.append(Problem(key, f"{other.name}, which gives a {gives}", wanted))
        elif facts.gives == "policy" and role == "policy" and not loaded.recipe.method.facts.asks_for_answers:
            got = f"{other.name}, whose method {other.recipe.method_name} gives a policy without weights of its own"
            wanted = f"a recipe that trains a language model: {loaded.recipe.method_name} starts from weights"
            problems.append(Problem(key, got, wanted))
        else:
            upstream[role] = _linked(other, its_source, together, problems, {**before, loaded.name: role})
    return replace(loaded, upstream=upstream)


def _open(argument: str, over: tuple[Layer, ...]) -> list[_Source]:
    """Returns the source of a recipe, or those of a suite's entries."""
    path = find_recipe(argument, Path.cwd())
    values = read_file(path)
    if "recipes" not in values:
        return [_Source(path, over)]
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
        sources.append(_Source(file, layers, suite.seeds))
    return sources if suite.sweep is None else _with_sweeps(suite, label, sources)


def _with_sweeps(suite: Suite, label: str, sources: Sequence[_Source]) -> list[_Source]:
    """Gives every source its grid. What has no hyperparameters has none, and neither have reward models."""
    assert suite.sweep is not None
    problems: list[Problem] = []
    found: list[_Source] = []
    left = dict.fromkeys(suite.sweep.grids)
    for source in sources:
        values = merge(source.layers())
        name, method = values.get("name"), values.get("method")
        kind = method.get("name") if isinstance(method, dict) else None
        trainer = method_class(kind) if kind in known_methods() else None
        tunable = trainer is not None and trainer.facts.gives_policy and bool(fields(trainer))
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
    known = [str(merge(source.layers()).get("name")) for source in sources]
    problems += [
        Problem(f"{label}: sweep.grids.{name}", "a grid for no recipe of the suite", f"one of {', '.join(known)}")
        for name in left
    ]
    if problems:
        raise RecipeError(problems)
    return found


def _sweep_problems(loaded: LoadedRecipe, sweep: Sweep, sets: Mapping[str, Any]) -> list[Problem]:
    """Checks the grid of a recipe: its size, its criterion, and that every point makes a recipe.

    Args:
        loaded: The recipe.
        sweep: Its sweep.
        sets: What `--set` says, nested; a key of the grid must not be there.
    """
    recipe = loaded.recipe
    problems: list[Problem] = []
    points = sweep.points
    if len(points) < sweep.settings.trials:
        wanted = f"at least {sweep.settings.trials}, the trials of every recipe"
        problems.append(Problem(sweep.place, f"{len(points)} different points", wanted))
    scorers = [one if isinstance(one, str) else one.name for one in recipe.evaluation.scorers]
    for scorer in sorted(sweep.settings.criterion.scorers.difference(scorers)):
        place = f"{sweep.place.partition(': ')[0]}: sweep.criterion"
        problems.append(
            Problem(place, f"the scorer {scorer}", f"one of {', '.join(scorers)}, as in evaluation.scorers")
        )
    if recipe.data.validation_fraction == 0:
        problems.append(
            Problem(f"{recipe.name}: data.validation_fraction", "0", "more: trials are judged on that split")
        )
    for key in points[0]:
        if is_set(tuple(key.split(".")), sets):
            problems.append(Problem(f"--set {key}", "a value", f"it left out: the sweep of {recipe.name} decides it"))
    for number, point in enumerate(points):
        try:
            loaded.trial(number, point)
        except RecipeError as error:
            problems += error.problems
    return problems
