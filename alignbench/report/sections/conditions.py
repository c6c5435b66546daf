"""What the numbers depend on besides the recipes: what was measured alike, and where it was run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from alignbench.report.blocks import Block, Paragraph, Section, plain_table
from alignbench.report.material import Material

_MEANING = "Runs stand in one table only where all of this is the same."


def conditions(material: Material) -> Section:
    """Returns comparability and environment."""
    blocks: list[Block] = []
    policies = [runs.runs[0] for runs in material.recipes.values() if runs.runs]
    if policies:
        _, evaluation = policies[0]
        record = evaluation.record
        whole = {
            "protocol": record.protocol,
            "n_prompts": record.n_prompts,
            "samples_per_prompt": record.samples_per_prompt,
            **record.comparability,
        }
        rows = [[name, value] for name, value in _flat("", whole)]
        said = "; ".join(map(str, material.comparison.mismatches))
        blocks.append(Paragraph(f"They differ in: {said}" if said else _MEANING, "warning" if said else "remark"))
        blocks.append(plain_table("Measured alike", ["field", "value"], rows))
    environments: dict[str, dict[str, list[str]]] = {}
    for run in material.runs:
        for name, value in _flat("", run.environment):
            environments.setdefault(name, {}).setdefault(value, []).append(run.label)
    rows = [[name, _values(values)] for name, values in environments.items()]
    if rows:
        blocks.append(plain_table("Environment", ["", "value"], rows))
    return Section("conditions", "Measured alike, and where", blocks)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _values(values: Mapping[str, list[str]]) -> str:
    """Returns a value that all runs share, or each with the runs that have it."""
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} in {', '.join(runs)}" for value, runs in values.items())
