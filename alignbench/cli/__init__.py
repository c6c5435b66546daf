"""The command line: one verb, one file; each parses, calls and prints."""

from alignbench.cli.group import main

__all__ = ["main"]
