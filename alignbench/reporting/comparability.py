"""The gate: which runs may stand in one table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignbench.errors import ComparabilityError
from alignbench.reporting.store import StoredEvaluation, StoredRun

_MAY_DIFFER = frozenset({"seed", "name", "description", "hardware.threads"})
"""Settings that do not change what a run is."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A field that is not the same in all runs."""

    field: str
    values: Mapping[str, tuple[str, ...]]
    """Each value and the runs that have it."""

    def __str__(self) -> str:
        sides = (f"{value} in {', '.join(runs)}" for value, runs in self.values.items())
        return f"{self.field}: {'; '.join(sides)}"


def find_mismatches(measured: Sequence[tuple[StoredRun, StoredEvaluation]]) -> list[Mismatch]:
    """Returns every field in which the runs' evaluations, or the settings of one recipe's seeds, differ."""
    fields = {run.label: _fields(evaluation) for run, evaluation in measured}
    names = list(dict.fromkeys(name for one in fields.values() for name in one))
    found = [_mismatch(name, {run: one.get(name, "(absent)") for run, one in fields.items()}) for name in names]
    return [one for one in found if len(one.values) > 1] + list(_settings_mismatches([run for run, _ in measured]))


def require_comparable(mismatches: Sequence[Mismatch]) -> None:
    """Raises ComparabilityError, naming each field, where there is any mismatch."""
    if mismatches:
        lines = "".join(f"\n  {one}" for one in mismatches)
        raise ComparabilityError(
            f"these runs do not belong in one table, they differ in:{lines}\n"
            "Compare those that agree, run the others again alike, or pass --allow-mismatch to see them side by side."
        )


def group_key(evaluation: StoredEvaluation) -> str:
    """Returns a text that is equal for evaluations that may stand in one table."""
    return json.dumps(_fields(evaluation), sort_keys=True)


def _fields(evaluation: StoredEvaluation) -> dict[str, str]:
    record = evaluation.record
    whole = {
        "protocol": record.protocol,
        "n_prompts": record.n_prompts,
        "samples_per_prompt": record.samples_per_prompt,
    }
    return dict(_flatten("", {**whole, **record.comparability}))


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _mismatch(field: str, by_run: Mapping[str, str]) -> Mismatch:
    values: dict[str, tuple[str, ...]] = {}
    for run, value in by_run.items():
        values[value] = (*values.get(value, ()), run)
    return Mismatch(field, values)


def _settings_mismatches(runs: Sequence[StoredRun]) -> Iterator[Mismatch]:
    """Yields settings in which the seeds of one recipe differ: an average over them would mean nothing."""
    for recipe in dict.fromkeys(run.status.recipe for run in runs):
        seeds = [run for run in runs if run.status.recipe == recipe]
        settings = {run.label: _settings(run) for run in seeds} if len(seeds) > 1 else {}
        for name in dict.fromkeys(name for one in settings.values() for name in one):
            values = {run: one.get(name, "(absent)") for run, one in settings.items()}
            if len(set(values.values())) > 1:
                yield _mismatch(f"settings of {recipe}, {name}", values)


def _settings(run: StoredRun) -> dict[str, str]:
    """Returns the resolved recipe, flat, without what may differ between seeds."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        recipe = YAML(typ="safe", pure=True).load(run.recipe_text())
    except YAMLError:
        recipe = None
    flat = dict(_flatten("", recipe)) if isinstance(recipe, Mapping) else {}
    return {name: value for name, value in flat.items() if name not in _MAY_DIFFER}
