"""Why runs have failed of which nothing was left: `alignbench status` says it until they are begun again."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from alignbench.results import layout
from alignbench.results.files import write_atomically


def record_failure(results: Path, recipe: str, seed: int, reason: str) -> None:
    """Writes down why a run has failed; nothing where there is no results directory, or it cannot be written."""
    with suppress(OSError):
        if results.is_dir():
            path = _path(results, recipe, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(reason, ensure_ascii=False) + "\n")


def forget_failure(results: Path, recipe: str, seed: int) -> None:
    """Forgets it, as the run begins again."""
    path = _path(results, recipe, seed)
    with suppress(OSError):
        path.unlink()
        for folder in path.parents[:3]:
            folder.rmdir()  # only where it is empty


def read_failures(results: Path) -> dict[tuple[str, int], str]:
    """Returns what is written down, by recipe and seed."""
    found = {}
    for path in sorted((results / layout.JOBS / layout.FAILED).glob("*/*.json")):
        with suppress(OSError, ValueError):
            found[path.parent.name, int(path.stem)] = str(json.loads(path.read_text(encoding="utf-8")))
    return found


def _path(results: Path, recipe: str, seed: int) -> Path:
    return results / layout.JOBS / layout.FAILED / recipe / f"{seed}.json"
