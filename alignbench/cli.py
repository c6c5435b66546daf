"""The command line: parse, call, print."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alignbench._version import __version__
from alignbench.comparison import FORMATS
from alignbench.errors import AlignbenchError, InputsError

if TYPE_CHECKING:
    from alignbench.recipe.recipe import Recipe

_INTERRUPTED = 130


class _Group(click.Group):
    """Prints our own errors without a traceback and exits with the code they carry."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AlignbenchError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Interrupted; the same command goes on from the last checkpoint.", err=True)
            ctx.exit(_INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="alignbench")
def main() -> None:
    """Which alignment method should I use? Train, evaluate and compare them on equal terms.

    \b
    alignbench run quickstart       a tiny world, offline, in minutes on a laptop
    alignbench compare results/     one table, with uncertainty, cost and verdicts
    """


@main.command()
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE_OR_SUITE...")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. policy.model=PATH.")
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(min=0), help="Seed; may be given several times.")
@click.option("--results", default="results", type=click.Path(path_type=Path), show_default=True, help="Where runs go.")
@click.option("--name", help="Another name for the run (one recipe only).")
@click.option("--force", is_flag=True, help="Replace a run of another recipe under the same name, or run again.")
@click.option("--profile", is_flag=True, help="Trace a training step, and print the share of each stage.")
@click.option("--dry-run", is_flag=True, help="Show what would run, in order, and stop.")
def run(
    recipes: tuple[str, ...],
    sets: tuple[str, ...],
    seeds: tuple[int, ...],
    results: Path,
    name: str | None,
    force: bool,
    profile: bool,
    dry_run: bool,
) -> None:
    """Train and evaluate recipes, given as files, shipped names or suites."""
    from alignbench.pipeline import tuning
    from alignbench.recipe.loading import load
    from alignbench.runtime import distributed

    loaded = load(recipes, sets, seeds, name)
    if dry_run:
        for line in tuning.describe(loaded, results, force=force):
            click.echo(line)
        return
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    distributed.join()
    logging.getLogger("alignbench").setLevel(logging.INFO if distributed.rank() == 0 else logging.ERROR)
    outcomes = tuning.run(loaded, results, force=force, profile=profile)
    for outcome in outcomes:
        if distributed.rank() == 0 or outcome.error is not None:
            click.echo(str(outcome), err=outcome.error is not None)
    failures = [outcome.error for outcome in outcomes if outcome.error is not None and outcome.state == "failed"]
    if failures:
        n = len(outcomes)
        click.echo(f"{len(failures)} of {n} runs failed", err=True)
        sys.exit(failures[0].exit_code if n == 1 else 1)
    distributed.leave()


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "style", metavar=f"[{'|'.join(FORMATS)}]", default="table", show_default=True)
@click.option("--baseline", help="Recipe that the others are compared with; by default the untrained one.")
@click.option("--allow-mismatch", is_flag=True, help="Compare runs whose evaluations differ; the table says so.")
@click.option("--all-pairs", is_flag=True, help="Test every recipe against every other as well.")
def compare(paths: tuple[Path, ...], style: str, baseline: str | None, allow_mismatch: bool, all_pairs: bool) -> None:
    """Compare runs: one row per recipe, with intervals, verdicts, cost and flags.

    PATHS are result directories, recipes within them, or single runs. Exit code 3: fewer than two recipes to compare.
    """
    from alignbench.comparison.compare import compare as compare_runs
    from alignbench.comparison.formats import writer

    write = writer(style)  # before anything is read
    comparison = compare_runs(list(paths), baseline=baseline, allow_mismatch=allow_mismatch, all_pairs=all_pairs)
    click.echo(write(comparison))
    comparison.require_two()


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
    on_hub = check_inputs(loaded)
    for one in loaded:
        recipe = one.recipe
        click.echo(f"{recipe.name} (seed {recipe.seed}): {recipe.method_name}, fine")
        if one.sweep is not None:
            click.echo(f"  to be tuned: {one.sweep}")
        for caution in recipe.method.facts.cautions(recipe.method):
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


@main.command()
@click.argument("name", required=False)
def methods(name: str | None) -> None:
    """List the methods, or show one: its paper, objective, fields and defaults."""
    from alignbench.methods import registry

    if name is None:
        for known in registry.known_methods():
            click.echo(f"{known:<16}{registry.summary(known)}")
        return
    description = registry.describe(name)
    click.echo(description.doc)
    if description.fields:
        click.echo("\nFields:")
    for field in description.fields:
        click.echo(f"  {field.name}: {field.type} = {field.default!r}\n      {field.doc}")


@main.command(name="ls")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def list_runs(paths: tuple[Path, ...]) -> None:
    """List runs: finished, unfinished and damaged ones."""
    from alignbench.comparison.listing import render_runs

    click.echo(render_runs(list(paths)))
