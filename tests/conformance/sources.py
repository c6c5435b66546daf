"""What a source of data must do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignbench.plugins import SOURCES
from alignbench.records import Prompt
from datasets_prep.columns import read_prompts
from datasets_prep.rows import Row
from datasets_prep.sources.base import Request, Source

from .expectations import expect


def check_source(source: str | Source, *, split: str | None = None, folder: Path | None = None) -> list[Prompt]:
    """Checks the rows of a source.

    Args:
        source: Its name in a recipe, or itself.
        split: A split that it has; None: its own choice.
        folder: A local copy, for one that knows such.

    Returns:
        Its prompts; none where it has texts alone.
    """
    named = source if isinstance(source, str) else "source"
    found: Any = SOURCES.load(source) if isinstance(source, str) else source
    expect(isinstance(found, Source), f"{named}: got {found!r}, expected a datasets_prep.sources.base.Source")
    expect(found.gives, f"{named}: `gives` is empty, so no key of a recipe may name it")
    request = Request("data.prompts", split, folder=folder)
    rows = found.read(request)
    _check_rows(named, rows)
    expect(list(found.read(request)) == list(rows), f"{named}: the same request gave other rows the second time")
    if "texts" in found.gives:
        expect(all(isinstance(row.get("text"), str) for row in rows), f"{named}: a row lacks `text`, and gives texts")
    if "prompts" not in found.gives:
        return []
    prompts = read_prompts(rows, found.columns, origin=f"data.prompts: {named}", needs_toxicity=False)
    expect(any(prompt.text.strip() for prompt in prompts), f"{named}: no prompt has a text")
    return prompts


def _check_rows(named: str, rows: Any) -> None:
    expect(len(rows) > 0, f"{named}: it has no rows")
    strays = [row for row in rows if not isinstance(row, Mapping)]
    expect(not strays, f"{named}: got {strays[:1]} among the rows, expected mappings by column")
    row: Row = rows[0]
    try:
        json.dumps(dict(row))
    except TypeError as error:
        raise AssertionError(f"{named}: a row is {row!r} ({error}), expected what JSON can hold") from error
