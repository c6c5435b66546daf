"""An output of compare: a line for each recipe."""

from __future__ import annotations

from alignbench.comparison.comparison import Comparison


def write(comparison: Comparison) -> str:
    """Returns the recipes with the means of their metrics over seeds; what could not be measured is a dash."""
    values: dict[str, list[str]] = {}
    for row in comparison.records():
        shown = "-" if row["value"] is None else f"{row['value']:.4g}"
        values.setdefault(row["recipe"], []).append(
            f"{row['metric']}{'@' * bool(row['scorer'])}{row['scorer'] or ''} {shown}"
        )
    return "\n".join(f"{recipe}: {', '.join(shown)}" for recipe, shown in values.items())
