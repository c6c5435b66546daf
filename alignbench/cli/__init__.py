"""The command line: one verb, one file; each parses, calls and prints."""

from alignbench.cli import check, compare, ls, methods, run
from alignbench.cli.group import main

__all__ = ["check", "compare", "ls", "main", "methods", "run"]
