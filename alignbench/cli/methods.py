"""`alignbench methods`."""

from __future__ import annotations

import dataclasses

import click

from alignbench.cli.group import main


@main.command()
@click.argument("name", required=False)
def methods(name: str | None) -> None:
    """List the methods, or show one: its paper, objective, fields and defaults."""
    from alignbench.methods import registry

    if name is None:
        names = registry.known_methods()
        width = max(16, *(len(one) + 2 for one in names))
        for known in names:
            click.echo(f"{known:<{width}}{registry.summary(known)}")
        return
    description = registry.describe(name)
    click.echo(description.doc)
    if description.fields:
        click.echo("\nFields:")
    for field in description.fields:
        default = "required" if field.default is dataclasses.MISSING else f"= {field.default!r}"
        click.echo(f"  {field.name}: {field.type} {default}\n      {field.doc}")
