"""The commands and recipes that give these runs again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from alignbench.report.blocks import Block, Code, Fold, Items, Paragraph, Section
from alignbench.report.material import Material
from alignbench.results.layout import RECIPE_FILE
from alignbench.results.reader import StoredRun
from alignbench.results.schema import UnreadableError, read_text

_HOW = (
    "Save the recipes below in one folder, each as NAME.yaml with the name above it, and type there, with the same "
    "versions installed (see the environment):"
)
_MISSING = "{name} was built on, and is not among these runs: its recipe is needed too."
_TUNED = "{name} was tuned: its recipe has what the trials have selected, so that they are not run again."


def reproduction(material: Material, options: Mapping[str, str]) -> Section:
    """Returns commands, and every recipe with its defaults written out.

    Args:
        material: The runs.
        options: What the comparison was asked for, by the name of its option.
    """
    recipes = _by_recipe(material.runs)
    blocks: list[Block] = [Paragraph(_HOW), Code("\n".join(_commands(recipes, options)))]
    notes = [_MISSING.format(name=name) for name in sorted(_missing(material.runs))]
    notes += [_TUNED.format(name=name) for name, runs in recipes.items() if _is_tuned(runs[0])]
    blocks += [Items(notes)] if notes else []
    blocks += [Fold(f"{name}.yaml", [Code(_recipe(runs[0]))]) for name, runs in recipes.items()]
    return Section("reproduction", "To reproduce it", blocks)


def _is_tuned(run: StoredRun) -> bool:
    return any(one.role == "tuning" for one in run.status.upstream)


def _by_recipe(runs: Sequence[StoredRun]) -> dict[str, list[StoredRun]]:
    found: dict[str, list[StoredRun]] = {}
    for run in runs:
        found.setdefault(run.status.recipe, []).append(run)
    return found


def _commands(recipes: Mapping[str, Sequence[StoredRun]], options: Mapping[str, str]) -> Iterator[str]:
    """Yields a command for each set of seeds, those that others build on come by themselves."""
    together: dict[tuple[int, ...], list[str]] = {}
    for name, runs in recipes.items():
        together.setdefault(tuple(run.status.seed for run in runs), []).append(name)
    for seeds, names in together.items():
        files = shlex.join(f"{name}.yaml" for name in names)
        yield f"alignbench run {files} {' '.join(f'--seed {seed}' for seed in seeds)} --results results"
    said = "".join(f" --{name} {shlex.quote(value)}" for name, value in options.items())
    yield f"alignbench compare results{said}"
    yield f"alignbench report results{said} -o report.html"


def _missing(runs: Sequence[StoredRun]) -> set[str]:
    present = {run.status.recipe for run in runs}
    upstream = {one.recipe for run in runs for one in run.status.upstream if one.role != "tuning"}
    return upstream - present


def _recipe(run: StoredRun) -> str:
    try:
        return read_text(run.path / RECIPE_FILE).rstrip("\n")
    except UnreadableError as error:
        return f"# {error}"
