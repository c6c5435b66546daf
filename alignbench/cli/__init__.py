"""The command line: one verb, one file; each parses, calls and prints."""

from alignbench.cli import (
    check,
    compare,
    demo,
    evaluate,
    export,
    init,
    keys,
    ls,
    methods,
    report,
    rescore,
    run,
    score,
    status,
)
from alignbench.cli.group import main

__all__ = [
    "check",
    "compare",
    "demo",
    "evaluate",
    "export",
    "init",
    "keys",
    "ls",
    "main",
    "methods",
    "report",
    "rescore",
    "run",
    "score",
    "status",
]
