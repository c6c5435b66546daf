"""The command that the verbs belong to: its help, its errors, its exit codes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from alignbench._version import __version__
from alignbench.errors import AlignbenchError

_INTERRUPTED = 130
VERBS = {
    "check": "Check recipes and report every problem at once, without loading a model.",
    "compare": "Compare runs: the answer first, then a row per recipe, with ranks, verdicts, cost and flags.",
    "demo": "Try runs by hand: a page where a prompt is answered by several runs side by side, with scores and costs.",
    "evaluate": "Measure a MODEL that was trained elsewhere, or stored completions, as a row beside the runs of "
    "--results.",
    "export": "Take the model of RUN away: a checkpoint that transformers loads, with a model card, in an empty "
    "DIRECTORY.",
    "init": "Write first recipes and a suite into DIRECTORY, for a model, prompts and a notion of harm of your own.",
    "keys": "List the keys of recipes and suites, or of one BLOCK such as `evaluation` or `method.ppo`.",
    "ls": "List runs: finished, unfinished and damaged ones.",
    "methods": "List the methods, or show one: its paper, objective, fields and defaults.",
    "report": "Make a page to look at and to pass on: the answer, pictures, texts before and after, and how to do it "
    "again.",
    "rescore": "Add a judge to finished RUNS, on their stored completions: nothing is trained or drawn.",
    "run": "Train and evaluate recipes, given as files, shipped names or suites.",
    "score": "Score the texts of FILE with a classifier, with the reward model of a run, or with any other scorer.",
    "status": "Show what runs where, how far it is, what waits, and what failed and why.",
}
"""The first lines of what the verbs say of themselves: `--help` loads none of their files, another verb its own."""


class _Group(click.Group):
    """Prints our own errors without a traceback and exits with the code they carry."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in VERBS:
            import_module(f"alignbench.cli.{args[0]}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AlignbenchError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            from alignbench.runtime import progress

            click.echo(progress.after_interrupt(), err=True)
            ctx.exit(_INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="alignbench")
def main() -> None:
    """Which alignment method should I use? Train, evaluate and compare them on equal terms.

    \b
    alignbench run quickstart       a tiny world, offline, in minutes on a laptop
    alignbench compare results/     one table, with uncertainty, cost and verdicts
    alignbench report results/      a page to look at and to pass on
    """


for _verb, _line in VERBS.items():
    main.add_command(click.Command(_verb, help=_line))  # until the verb's file puts its own in its place
