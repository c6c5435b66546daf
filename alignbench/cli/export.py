"""`alignbench export`."""

from __future__ import annotations

from pathlib import Path

import click

from alignbench.cli.group import main


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--merge", is_flag=True, help="Write an adapter merged into its base: one whole checkpoint.")
@click.option("--push", metavar="USER/NAME", help="Upload it to the hub too, to a private repository.")
def export(run: Path, directory: Path, merge: bool, push: str | None) -> None:
    """Take the model of RUN away: a checkpoint that transformers loads, with a model card, in an empty DIRECTORY.

    RUN is a run's directory, results/RECIPE/seedK, or results/RECIPE where there is one seed.
    """
    from alignbench.export import hub
    from alignbench.export.export import export as export_run
    from alignbench.runtime.device import quiet_libraries

    if push is not None:
        hub.require_token()
    quiet_libraries()
    exported = export_run(run, directory, merge=merge)
    models = ["a model" if one == "." else one for one in exported.models]
    click.echo(f"{run}: {', '.join(models) or 'no model'} in {directory}, with README.md")
    if exported.base is not None:
        click.echo(f"an adapter, which needs its base model {exported.base}; --merge writes one whole checkpoint")
    for note in exported.notes:
        click.echo(note)
    if push is not None:
        click.echo(f"pushed to {hub.push(directory, push)}")
