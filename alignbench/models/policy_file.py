"""The file that says what kind of policy a folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alignbench.errors import ModelError

FILE = "policy.json"
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
    """Returns what `write_policy_file` was given; ModelError where a folder holds no policy."""
    try:
        record = json.loads((directory / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{directory}: cannot be read as a saved policy: {error}") from error
    if not (isinstance(record, dict) and isinstance(record.get("kind"), str)):
        raise ModelError(f"{directory}: cannot be read as a saved policy: its {FILE} names no kind")
    return record
