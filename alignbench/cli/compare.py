"""`alignbench compare`."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from alignbench.cli.group import main
from alignbench.comparison import FORMATS

_COLOURS = {"better": "green", "worse": "red"}
_HEADING = re.compile(r"^(ANSWER|ABOUT|EXAMPLE|NOT DONE|SETTLE|SKIPPED|REWARD MODEL|NOTES?|MORE)(?=  )", re.MULTILINE)


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "style", metavar=f"[{'|'.join(FORMATS)}]", default="table", show_default=True)
@click.option("--details", is_flag=True, help="Everything, section by section.")
@click.option("--section", "sections", multiple=True, metavar="NAME", help="Of the details, this section; repeatable.")
@click.option(
    "--texts",
    is_flag=False,
    flag_value=8,
    type=click.IntRange(min=1),
    metavar="[N]",
    help="N prompts, 8 by default, as baseline and best row answer them; toxic texts are shown.",
)
@click.option("--metric", metavar="NAME[@SCORER]", help="What the answer, the ranks and the table are about.")
@click.option("--columns", metavar="A,B,...", help="Columns of the table: its own, metrics, costs.")
@click.option("--sort", metavar="COLUMN", help="Column that rows are sorted by; by default the best measured first.")
@click.option("--at", metavar="AXIS=VALUE", help="Along training, at kl=K, completions=N or flops=F.")
@click.option("--frontier", metavar="A,B,...", help="Which rows are dominated in these metrics and costs.")
@click.option("--baseline", help="Recipe that the others are compared with; by default the untrained one.")
@click.option("--allow-mismatch", is_flag=True, help="Compare runs whose evaluations differ; the table says so.")
@click.option("--measurement", type=click.IntRange(min=1), help="Of runs that were measured again, which measurement.")
@click.option("--all-pairs", is_flag=True, help="Test every recipe against every other on every metric as well.")
def compare(paths: tuple[Path, ...], **asked: Any) -> None:
    """Compare runs: the answer first, then a row per recipe, with ranks, verdicts, cost and flags.

    PATHS are result directories, recipes within them, or single runs. Exit code 3: fewer than two recipes to compare.
    """
    from alignbench.comparison.asked import Asked, shown
    from alignbench.comparison.compare import compare as compare_runs

    options = Asked(**{one.name: asked.pop(one.name) for one in fields(Asked)})
    options.check()  # before anything is read
    comparison = compare_runs(list(paths), **asked)
    text = shown(comparison, options)
    click.echo(_coloured(text) if options.is_page and not os.environ.get("NO_COLOR") else text)
    comparison.require_two()


def _coloured(text: str) -> str:
    """Returns a page with its headings and verdicts in colour; what is no terminal is given none of it."""
    text = _HEADING.sub(lambda found: click.style(found[0], bold=True), text)
    words = re.compile(r"(?<=  )(better|worse)(?=  )")
    return words.sub(lambda found: click.style(found[0], fg=_COLOURS[found[0]]), text)
