"""An output of compare: a line for each recipe."""

from __future__ import annotations

from alignbench.comparison.comparison import Comparison


def write(comparison: Comparison) -> str:
    """Returns the recipes with the means of their metrics over seeds; what could not be measured is a dash."""
    shown: dict[str, list[str]] = {}
    for row in comparison.records():
        name = row["metric"] if row["scorer"] is None else f"{row['metric']}@{row['scorer']}"
        value = "-" if row["value"] is None else f"{row['value']:.4g}"
        shown.setdefault(str(row["recipe"]), []).append(f"{name} {value}")
    return "\n".join(f"{recipe}: {', '.join(values)}" for recipe, values in shown.items())
