"""`alignbench rescore`."""

from __future__ import annotations

from pathlib import Path

import click

from alignbench.cli.group import main
from alignbench.errors import UsageError


@main.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--scorer",
    "scorers",
    multiple=True,
    metavar="SETTINGS",
    help="A judge: '{name: a, classifier: MODEL, label: toxic}', or the name of a preset.",
)
@click.option("--metric", "metrics", multiple=True, help="A metric that needs texts alone, such as one of a package.")
def rescore(runs: tuple[Path, ...], scorers: tuple[str, ...], metrics: tuple[str, ...]) -> None:
    """Add a judge to finished RUNS, on their stored completions: nothing is trained or drawn.

    SETTINGS are an entry of `evaluation.scorers`. The measurement is written beside the earlier ones, and tables show
    the latest.
    """
    from alignbench.pipeline.again import runs_to_measure
    from alignbench.pipeline.named_scorers import judge_scorer, judge_settings
    from alignbench.pipeline.rescore import rescore as rescore_run
    from alignbench.runtime.device import choose_device, quiet_libraries

    if not scorers and not metrics:
        raise UsageError("rescore: got nothing to add, expected --scorer SETTINGS, or --metric NAME")
    settings = [judge_settings(one, "--scorer") for one in scorers]
    if len({one.name for one in settings}) < len(settings):
        raise UsageError("--scorer: got one name twice, expected a name for each (the default is judge)")
    found = runs_to_measure(runs)
    quiet_libraries()
    device = choose_device("auto")
    judges = {one.name: (one, judge_scorer(one, device)) for one in settings}
    for run in found:
        click.echo(f"{run.label}: {rescore_run(run, judges, metrics, device)}")
