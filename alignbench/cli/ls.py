"""`alignbench ls`."""

from __future__ import annotations

from pathlib import Path

import click

from alignbench.cli.group import main


@main.command(name="ls")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def list_runs(paths: tuple[Path, ...]) -> None:
    """List runs: finished, unfinished and damaged ones."""
    from alignbench.comparison.listing import render_runs

    click.echo(render_runs(list(paths)))
