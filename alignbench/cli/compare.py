"""`alignbench compare`."""

from __future__ import annotations

from pathlib import Path

import click

from alignbench.cli.group import main
from alignbench.comparison import FORMATS


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
