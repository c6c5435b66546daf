"""`alignbench status`."""

from __future__ import annotations

from pathlib import Path

import click

from alignbench.cli.group import main


@main.command()
@click.argument("results", default="results", type=click.Path(path_type=Path))
def status(results: Path) -> None:
    """Show what runs where, how far it is, what waits, and what failed and why."""
    from alignbench.comparison.progress_table import render_progress

    click.echo(render_progress(results))
