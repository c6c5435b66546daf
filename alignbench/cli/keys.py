"""`alignbench keys`."""

from __future__ import annotations

import click

from alignbench.cli.group import main


@main.command()
@click.argument("block", required=False)
def keys(block: str | None) -> None:
    """List the keys of recipes and suites, or of one BLOCK such as `evaluation` or `method.ppo`."""
    from alignbench.recipe.keys import render_keys

    click.echo(render_keys(block))
