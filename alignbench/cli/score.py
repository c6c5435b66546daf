"""`alignbench score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from alignbench.cli.group import main

if TYPE_CHECKING:
    from alignbench.records import TextWindow


@main.command()
@click.argument("scorer", metavar="CLASSIFIER_OR_RUN")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--label", help="The class of the classifier whose probability is the score.")
@click.option("--judge", help="Of a run of a policy, which of its judges scores.")
@click.option("--column", help="Column of the texts; by default `completion`, `response`, `text` and the like.")
@click.option("--prompt-column", help="Column of the prompts, for a scorer that reads them; by default `prompt`.")
@click.option(
    "--text",
    type=click.Choice(["completion", "prompt_and_completion", "chat"]),
    default="completion",
    show_default=True,
    help="What a classifier reads.",
)
@click.option("--name", default="score", show_default=True, help="Column of the scores.")
@click.option("--output", type=click.Path(path_type=Path), help="A .jsonl, .csv or .parquet file; by default printed.")
def score(
    scorer: str,
    file: Path,
    label: str | None,
    judge: str | None,
    column: str | None,
    prompt_column: str | None,
    text: TextWindow,
    name: str,
    output: Path | None,
) -> None:
    """Score the texts of FILE with a classifier, with the reward model of a run, or with any other scorer.

    CLASSIFIER_OR_RUN is a hub id or a folder, a run's directory, a preset such as s-nlp, or the settings of a judge as
    in a recipe, such as '{classifier: MODEL, label: toxic}'. FILE is .jsonl, .json, .csv, .parquet, or .txt with a text
    a line. Each row comes out with its score; null is a text that could not be scored.
    """
    from alignbench.pipeline.named_scorers import named_scorer
    from alignbench.pipeline.scoring import require_writable, scores_of, texts_of, write_scores
    from alignbench.runtime.device import choose_device, quiet_libraries

    require_writable(output)
    rows, prompts, texts = texts_of(file, column, prompt_column)
    quiet_libraries()
    made = named_scorer(scorer, choose_device("auto"), label=label, judge=judge, text=text)
    scores = scores_of(made, prompts, texts)
    write_scores([{**row, name: one} for row, one in zip(rows, scores, strict=True)], output)
    n_left = sum(one is None for one in scores)
    left = f"; {n_left} could not be scored" if n_left else ""
    click.echo(f"{len(scores)} texts scored by {scorer}{left}", err=True)
