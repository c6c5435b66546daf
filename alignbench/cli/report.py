"""`alignbench report`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from alignbench.cli.group import main


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", default="report.html", show_default=True, type=click.Path(path_type=Path), help="A .html or .md."
)
@click.option("--figures", metavar="DIR", type=click.Path(path_type=Path), help="Write each picture as a file there.")
@click.option("--figure-format", type=click.Choice(["svg", "png"]), default="svg", show_default=True)
@click.option("--metric", metavar="NAME@SCORER", help="What it is about; by default mean toxicity by a held-out judge.")
@click.option("--baseline", help="Recipe that the others are compared with; by default the untrained one.")
@click.option("--protocol", help="Which evaluation to take; needed only where runs have several.")
@click.option("--allow-mismatch", is_flag=True, help="Show runs whose evaluations differ; the page says so.")
@click.option("--published", metavar="PROTOCOL", help="Put published numbers beside it, e.g. of trl-detox-v1.")
@click.option("--texts", default=200, show_default=True, type=click.IntRange(1), help="Prompts to show the texts of.")
@click.option("--force", is_flag=True, help="Replace files that are there already.")
def report(
    paths: tuple[Path, ...],
    output: Path,
    figures: Path | None,
    figure_format: Literal["svg", "png"],
    metric: str | None,
    baseline: str | None,
    protocol: str | None,
    allow_mismatch: bool,
    published: str | None,
    texts: int,
    force: bool,
) -> None:
    """Make a page to look at and to pass on: the answer, pictures, texts before and after, and how to do it again.

    PATHS are result directories, recipes within them, or single runs. One file that needs nothing else, HTML or
    Markdown by its name. Exit code 3: fewer than two recipes to compare.
    """
    from alignbench.report.files import Target
    from alignbench.report.published import published as published_by
    from alignbench.report.report import Wanted
    from alignbench.report.report import report as report_on

    target = Target(output, figures, figure_format, force)
    target.require()
    table = published_by(published) if published else None
    wanted = Wanted(baseline, protocol, allow_mismatch, table, metric, texts)
    for path in target.write(report_on(list(paths), wanted)):
        click.echo(f"wrote {path}")
