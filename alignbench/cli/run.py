"""`alignbench run`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alignbench.cli.group import main

if TYPE_CHECKING:
    from alignbench.errors import AlignbenchError
    from alignbench.pipeline.plan import Outcome


@main.command()
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE_OR_SUITE...")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. policy.model=PATH.")
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(min=0), help="Seed; may be given several times.")
@click.option("--results", default="results", type=click.Path(path_type=Path), show_default=True, help="Where runs go.")
@click.option("--name", help="Another name for the run (one recipe only).")
@click.option("--force", is_flag=True, help="Replace a run of another recipe under the same name, or run again.")
@click.option("--profile", is_flag=True, help="Trace a training step, and print the share of each stage.")
@click.option("--dry-run", is_flag=True, help="Show what would run, in order, and stop.")
@click.option("--workers", type=click.IntRange(min=1), help="Runs side by side, each in a process of its own.")
@click.option("--executor", metavar="[local|slurm|ray]", help="Where they are: this machine, a cluster.")
@click.option("--executor-option", "options", multiple=True, metavar="KEY=VALUE", help="E.g. slurm_partition=gpu.")
@click.option("--retries", type=click.IntRange(min=0), default=1, show_default=True, help="Of a worker that died.")
@click.option("-v", "--verbose", is_flag=True, help="Log more, other libraries' notices included.")
@click.option("-q", "--quiet", is_flag=True, help="Log warnings alone, and show no progress.")
@click.option("--log-json", is_flag=True, help="Log a JSON object per line, progress included.")
def run(
    recipes: tuple[str, ...],
    sets: tuple[str, ...],
    seeds: tuple[int, ...],
    results: Path,
    name: str | None,
    force: bool,
    profile: bool,
    dry_run: bool,
    workers: int | None,
    executor: str | None,
    options: tuple[str, ...],
    retries: int,
    verbose: bool,
    quiet: bool,
    log_json: bool,
) -> None:
    """Train and evaluate recipes, given as files, shipped names or suites."""
    from alignbench.pipeline.executors.engines import engine
    from alignbench.recipe.loading import load
    from alignbench.recipe.yaml import parse_set
    from alignbench.runtime import distributed, logs

    loaded = load(recipes, sets, seeds, name)
    if dry_run:
        from alignbench.pipeline import tuning

        for line in tuning.describe(loaded, results, force=force):
            click.echo(line)
        return
    distributed.join()
    _set_up_log(verbose=verbose, quiet=quiet, as_json=log_json)
    chosen = engine(executor, workers, {key: value for one in options for key, value in parse_set(one).items()})
    from alignbench.pipeline import tuning  # seconds, in which workers load what they need

    try:
        outcomes = tuning.run(loaded, results, force=force, profile=profile, engine=chosen, retries=retries)
    finally:
        logs.tear_down()
    failures = _say_what_came_out(outcomes, results)
    if failures:
        n = len(outcomes)
        click.echo(
            f"{len(failures)} of {n} runs failed; the same command tries them again, and keeps the rest", err=True
        )
        sys.exit(failures[0].exit_code if n == 1 else 1)
    distributed.leave()


def _set_up_log(*, verbose: bool, quiet: bool, as_json: bool) -> None:
    """The first of several processes logs what happens, the others errors alone."""
    from alignbench.runtime import distributed, logs, progress

    if verbose and quiet:
        raise click.UsageError("--verbose and --quiet: expected one of them at most")
    progress.use_bar(not (quiet or as_json))
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    logs.set_up(level if distributed.rank() == 0 else logging.ERROR, as_json=as_json, libraries=verbose)


def _say_what_came_out(outcomes: Sequence[Outcome], results: Path) -> list[AlignbenchError]:
    """A line for every run, and what to type next; returns the errors of those that failed."""
    from alignbench.runtime import distributed

    is_first = distributed.rank() == 0
    for outcome in outcomes:
        if is_first or outcome.error is not None:
            click.echo(line_of(outcome), err=outcome.error is not None)
    n_complete = len({outcome.recipe for outcome in outcomes if outcome.error is None})
    if is_first and n_complete:
        click.echo(f"next: alignbench {'compare' if n_complete > 1 else 'ls'} {results}")
    return [outcome.error for outcome in outcomes if outcome.error is not None and outcome.state == "failed"]


def line_of(outcome: Outcome) -> str:
    """Returns what became of a run, and of a complete one what came out of it."""
    from alignbench.comparison.came_out import came_out

    found = came_out(outcome.path) if outcome.path is not None and outcome.error is None else ""
    return f"{outcome}: {found}" if found else str(outcome)
