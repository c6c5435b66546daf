"""`alignbench evaluate`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alignbench.cli.group import main
from alignbench.cli.run import line_of
from alignbench.errors import UsageError

if TYPE_CHECKING:
    from alignbench.recipe.loading import LoadedRecipe


@main.command()
@click.argument("targets", nargs=-1, metavar="[MODEL | RUNS...]")
@click.option("--completions", metavar="FILE", help="Stored completions instead of a model: jsonl, csv or parquet.")
@click.option(
    "--column", "columns", multiple=True, metavar="prompt=NAME", help="A column of FILE, also completion=, group=."
)
@click.option("--own-prompts", is_flag=True, help="Measure on the prompts of FILE, apart from the runs of --results.")
@click.option("--adapter", help="Hub id or folder of an adapter to be merged into MODEL.")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that the model brings with it.")
@click.option("--like", metavar="RUN", help="A run, or a recipe, to measure alike; by default the runs of --results.")
@click.option("--reference", metavar="BASE", help="What KL and perplexity refer to; by default the base of --like.")
@click.option("--name", help="Name of the row; by default from the model's.")
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(min=0), help="Seed; may be given several times.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a key, as in `run`.")
@click.option("--results", default="results", type=click.Path(path_type=Path), show_default=True, help="Where runs go.")
@click.option("--force", is_flag=True, help="Measure again, and replace a run of the same name.")
def evaluate(
    targets: tuple[str, ...],
    completions: str | None,
    columns: tuple[str, ...],
    own_prompts: bool,
    adapter: str | None,
    revision: str | None,
    trust_remote_code: bool,
    like: str | None,
    reference: str | None,
    name: str | None,
    seeds: tuple[int, ...],
    sets: tuple[str, ...],
    results: Path,
    force: bool,
) -> None:
    """Measure a MODEL that was trained elsewhere, or stored completions, as a row beside the runs of --results.

    MODEL is a hub id or a folder. It gets the prompts, protocol and judges of those runs, and its KL and perplexity
    refer to their base model. Of stored completions what texts alone do not say is withheld.

    RUNS are finished runs, or folders of them, that are measured again with what --set changes of their evaluation:
    nothing is trained, and the measurement is written beside the earlier ones.
    """
    from alignbench.pipeline import elsewhere

    is_other = any((completions, adapter, revision, like, reference, name, seeds))
    if targets and not is_other and elsewhere.are_runs(targets):
        _measure_again(targets, sets)
        return
    if bool(targets) == bool(completions) or len(targets) > 1:
        got = f"{len(targets)} names" if len(targets) > 1 else "both" if targets else "nothing"
        raise UsageError(
            f"evaluate: got {got}, expected one MODEL (a hub id or a folder), --completions FILE, or finished RUNS"
        )
    model = next(iter(targets), None)
    recipe, run = elsewhere.yardstick(like, results)
    if completions is not None:
        method, over = elsewhere.of_completions(completions, recipe, run, columns, sets, own_prompts=own_prompts)
        own_name = name or elsewhere.name_of(Path(completions).name.partition(".")[0])
    else:
        assert model is not None
        method, over = (
            {
                "name": "external",
                "model": elsewhere.artifact_of(model),
                "adapter": adapter,
                "revision": revision,
                "trust_remote_code": trust_remote_code,
            },
            {},
        )
        own_name = name or elsewhere.name_of(adapter or model)
    recipes = [
        elsewhere.beside(recipe, method, own_name, evaluation=over, reference=reference, seed=seed, sets=sets)
        for seed in seeds or (None,)
    ]
    run_all(recipes, results, force=force)


def _measure_again(targets: Sequence[str], sets: Sequence[str]) -> None:
    """Measures finished runs again, after all of them were found fit for it."""
    from alignbench.pipeline.again import changed_recipe, measure_again, runs_to_measure

    say_progress()
    found = [(run, changed_recipe(run, sets)) for run in runs_to_measure([Path(one) for one in targets])]
    for run, recipe in found:
        click.echo(f"{run.label}: {measure_again(run, recipe, sets)}")


def say_progress() -> None:
    """Has what alignbench says of its progress printed."""
    from alignbench.runtime import logs

    logs.set_up(logging.INFO)


def run_all(recipes: Sequence[LoadedRecipe], results: Path, *, force: bool) -> None:
    """Runs recipes, says what became of each, and exits with an error's code where one failed."""
    from alignbench.pipeline import tuning

    say_progress()
    outcomes = tuning.run(recipes, results, force=force)
    for outcome in outcomes:
        click.echo(line_of(outcome), err=outcome.error is not None)
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors:
        sys.exit(errors[0].exit_code)
