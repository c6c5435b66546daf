"""`alignbench init`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from alignbench.cli.group import main
from alignbench.errors import AlignbenchError, UsageError

_ASKED = {
    "model": "Model to align (hub id or folder)",
    "prompts": "Prompts (a file, or a source such as real_toxicity_prompts)",
    "classifier": "Classifier that says what harm is (hub id or folder)",
    "budget": "Completions to draw for training",
}


@main.command()
@click.argument("directory", default=".", type=click.Path(path_type=Path))
@click.option("--model", help="Hub id or folder of the model to align.")
@click.option("--prompts", help="A file of prompts, or the name of a source.")
@click.option("--prompt-column", help="Column of the prompts; by default `prompt` or `text`.")
@click.option("--classifier", help="Hub id or folder of the classifier that says what harm is, and rewards training.")
@click.option("--label", help="Its class that is harmful, or harmless; by default the one whose name speaks of harm.")
@click.option("--judge", help="Another classifier, which takes no part in training.")
@click.option("--judge-label", help="The judge's class that is harmful.")
@click.option("--budget", type=click.IntRange(min=16), help="Completions drawn for training.")
@click.option("--protocol", help="How all are measured; by default the one that fits the prompts.")
@click.option(
    "--method", "methods", multiple=True, default=["ppo"], show_default=True, help="May be given several times."
)
def init(
    directory: Path, methods: tuple[str, ...], label: str | None, judge_label: str | None, **said: str | None
) -> None:
    """Write first recipes and a suite into DIRECTORY, for a model, prompts and a notion of harm of your own.

    What no option says is asked on the terminal. Model, prompts and classifiers are looked at, and what is seen stands
    in the recipes as comments. `alignbench check` accepts what is written.
    """
    from alignbench.evaluation.protocols import get_protocol
    from alignbench.methods.registry import method_class
    from alignbench.pipeline.beginning import Wanted, harm_label, look, write
    from alignbench.pipeline.input_checks import check_inputs
    from alignbench.recipe.loading import load
    from alignbench.runtime.device import quiet_libraries

    for name in methods:
        method_class(name)
    if said["protocol"] is not None:
        get_protocol(said["protocol"])
    answers: dict[str, Any] = _answered(said)
    quiet_libraries()
    label = harm_label(answers["classifier"], label, "--label")
    if answers["judge"] is not None:
        judge_label = harm_label(answers["judge"], judge_label, "--judge-label")
    wanted = Wanted(**answers, label=label, judge_label=judge_label, methods=methods)
    found = look(wanted)
    for line in found.said:
        click.echo(line)
    files = write(wanted, found, directory)
    try:
        loaded = load([str(directory / "suite.yaml")])
        for one in loaded:
            one.recipe.check_names()
            one.recipe.check_budget()
        check_inputs(loaded)
    except AlignbenchError:  # nothing is left that `check` would refuse
        for file in files:
            file.unlink()
        raise
    click.echo(f"written: {', '.join(map(str, files))}")
    click.echo(f"alignbench run {directory / 'suite.yaml'}")


def _answered(said: dict[str, Any]) -> dict[str, Any]:
    """Asks for what no option says; UsageError where there is no terminal to ask on."""
    lacking = [name for name in _ASKED if said[name] is None]
    if lacking and not sys.stdin.isatty():
        options = ", ".join(f"--{name}" for name in lacking)
        raise UsageError(f"init: got no terminal to ask on, expected {options}")
    for name in lacking:
        said[name] = click.prompt(_ASKED[name], type=click.IntRange(min=16) if name == "budget" else str)
    return said
