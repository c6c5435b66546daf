"""Writer of everything, section by section: plain text, 120 columns."""

from __future__ import annotations

from alignbench.comparison.comparison import Comparison
from alignbench.comparison.text_table import details


def write(comparison: Comparison) -> str:
    """Returns a comparison as text."""
    return details(comparison)


plugin = write
