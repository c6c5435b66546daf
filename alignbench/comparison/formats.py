"""A comparison as text, in the format of one of the writers. All hold the same numbers, JSON and CSV unrounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignbench.errors import UsageError, did_you_mean
from alignbench.plugins import WRITERS

if TYPE_CHECKING:
    from alignbench.comparison.comparison import Comparison

_FIRST = ("table", "markdown", "json", "csv", "latex", "html-fragment")


def formats() -> list[str]:
    """Returns what `compare` can write, the most used first."""
    known = WRITERS.names()
    return [*(name for name in _FIRST if name in known), *(name for name in known if name not in _FIRST)]


def render(comparison: Comparison, format: str = "table") -> str:
    """Returns a comparison in one of `formats()`."""
    known = formats()
    if format not in known:
        raise UsageError(f"--format: got {format!r}, expected one of {', '.join(known)}{did_you_mean(format, known)}")
    text: str = WRITERS.load(format, "--format")(comparison)
    return text
