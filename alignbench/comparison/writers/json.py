"""Writer of JSON: the records, numbers to the last digit."""

from __future__ import annotations

import json

from alignbench.comparison.comparison import Comparison


def write(comparison: Comparison) -> str:
    """Returns the records as a list."""
    return json.dumps(comparison.records(), indent=1, allow_nan=False)


plugin = write
