"""Dialogues with a summary of each: `knkarthick/dialogsum` (Chen et al. 2021, arXiv:2105.06762), or a file like it.

The dialogue is the prompt and the summary its completion. `data.template` asks for the summary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets_prep import hub
from datasets_prep.rows import Row, like
from datasets_prep.sources.base import Request, Source

HUB_ID = "knkarthick/dialogsum"


def read_rows(request: Request) -> Sequence[Row]:
    """Returns the rows of a split; DataError where it is not in the local cache and cannot be fetched."""
    rows = hub.read_rows(HUB_ID, request.split or "train", request.revision, request.key)
    return with_usual_columns(rows) or rows


def with_usual_columns(rows: Sequence[Row]) -> list[dict[str, Any]] | None:
    """Returns the rows with `prompt` and `completion`; None where they have other columns."""
    names = set(rows[0]) if rows else set()
    if not {"dialogue", "summary"} <= names or "prompt" in names:
        return None
    return like(rows, ({**row, "prompt": row.get("dialogue"), "completion": row.get("summary")} for row in rows))


plugin = Source(read_rows, hub_id=HUB_ID, aliases=(HUB_ID,), of_layout=with_usual_columns)
