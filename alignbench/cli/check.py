"""`alignbench check`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from alignbench.cli.group import main
from alignbench.errors import AlignbenchError, InputsError

if TYPE_CHECKING:
    from alignbench.recipe.recipe import Recipe


@main.command()
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE_OR_SUITE...")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a key, as in `run`.")
@click.option("--load", "by_loading", is_flag=True, help="Load the models too, and try what a run needs later.")
def check(recipes: tuple[str, ...], sets: tuple[str, ...], by_loading: bool) -> None:
    """Check recipes and report every problem at once, without loading a model.

    Data files are read, of local models the configurations. What is on the hub is not looked up, and named. With
    --load each recipe's models are loaded and tried on odd texts, a training step's shapes and saving, in seconds, as
    every run does when it begins.
    """
    from alignbench.pipeline.input_checks import check_inputs
    from alignbench.recipe.loading import load

    loaded = load(recipes, sets)
    for one in loaded:
        one.recipe.check_names()
        one.recipe.check_budget()
    on_hub = check_inputs(loaded)
    for one in loaded:
        recipe = one.recipe
        click.echo(f"{recipe.name} (seed {recipe.seed}): {recipe.method_name}, fine")
        if one.sweep is not None:
            click.echo(f"  to be tuned: {one.sweep}")
        for caution in (*recipe.method.facts.cautions(recipe.method), *recipe.cautions()):
            click.echo(f"  but note: {caution}")
    if on_hub:
        click.echo(f"not looked up, as it is no local file: {', '.join(on_hub)}")
    if by_loading:
        _check_by_loading({one.name: one.recipe for one in reversed(loaded)})


def _check_by_loading(recipes: Mapping[str, Recipe]) -> None:
    """Says of each recipe, once for all its seeds, that it loads, or all that does not."""
    from alignbench.pipeline.preflight import check_by_loading
    from alignbench.runtime.device import choose_device, quiet_libraries

    quiet_libraries()
    problems = []
    for name in sorted(recipes):
        try:
            later = check_by_loading(recipes[name], choose_device(recipes[name].hardware.device))
        except AlignbenchError as error:
            problems.append(f"{name}: {error}")
            continue
        left = f"; not tried, as it is trained first: {', '.join(later)}" if later else ""
        click.echo(f"{name}: loaded and tried{left}")
    if problems:
        raise InputsError(problems)
