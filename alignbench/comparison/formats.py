"""A comparison as text, in the format of one of the writers. All hold the same numbers, JSON and CSV unrounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from alignbench.errors import UsageError
from alignbench.plugins import WRITERS

if TYPE_CHECKING:
    from alignbench.comparison.comparison import Comparison


def writer(format: str) -> Callable[[Comparison], str]:
    """Returns what writes a format; UsageError where there is none of this name, or it is no function."""
    found: Callable[[Comparison], str] = WRITERS.load(format, "--format")
    if not callable(found):
        raise UsageError(f"--format: {format!r} of {WRITERS.owner(format)} is {found!r}; a format is a function")
    return found


def render(comparison: Comparison, format: str = "table") -> str:
    """Returns a comparison in a format."""
    return writer(format)(comparison)
