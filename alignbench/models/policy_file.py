"""The file that says what kind of policy a folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alignbench.errors import ModelError

FILE = "policy.json"
HERE = "{here}/"
"""What a path in the file begins with that leads on from its own folder, wherever that lies."""
LANGUAGE_MODEL = "language_model"


def write_policy_file(directory: Path, kind: str, **values: object) -> None:
    """Says in a folder what kind of policy it holds, and what is needed to load it.

    Args:
        directory: The folder; made where there is none.
        kind: The name of the method that gives such policies, as recipes write it; a language model's is its own.
        values: JSON-like.
    """
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"kind": kind, **values}, indent=2)
    (directory / FILE).write_text(text + "\n", encoding="utf-8")


def read_policy_file(directory: Path) -> dict[str, Any]:
    """Returns what `write_policy_file` was given, paths of the folder whole; ModelError where it holds no policy."""
    try:
        record = json.loads((directory / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{directory}: cannot be read as a saved policy: {error}") from error
    if not (isinstance(record, dict) and isinstance(record.get("kind"), str)):
        raise ModelError(f"{directory}: cannot be read as a saved policy: its {FILE} names no kind")
    return {key: _found(value, directory.resolve()) for key, value in record.items()}


def _found(value: Any, directory: Path) -> Any:
    """JSON-like values with what begins with `HERE` as it lies in a folder."""
    if isinstance(value, dict):
        return {key: _found(one, directory) for key, one in value.items()}
    if isinstance(value, list):
        return [_found(one, directory) for one in value]
    if isinstance(value, str) and value.startswith(HERE):
        return str(directory / value.removeprefix(HERE))
    return value
