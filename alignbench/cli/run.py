"""`alignbench run`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from alignbench.cli.group import main


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
