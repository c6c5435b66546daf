"""The command that the verbs belong to: its help, its errors, its exit codes."""

from __future__ import annotations

from typing import Any

import click

from alignbench._version import __version__
from alignbench.errors import AlignbenchError

_INTERRUPTED = 130


class _Group(click.Group):
    """Prints our own errors without a traceback and exits with the code they carry."""

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
