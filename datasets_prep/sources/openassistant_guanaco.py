"""Dialogues in one column `text`, with markers of who speaks: `timdettmers/openassistant-guanaco`, or a file like it.

The prompt is everything up to the marker of the last answer, which is the completion. Rows of which one has no such
markers are plain texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets_prep import hub
from datasets_prep.role_markers import read_dialogue
from datasets_prep.rows import Row, like
from datasets_prep.sources.base import Request, Source

HUB_ID = "timdettmers/openassistant-guanaco"


def read_rows(request: Request) -> Sequence[Row]:
    """Returns the rows of the data set; DataError where it is not in the local cache and cannot be fetched."""
    rows = hub.read_rows(HUB_ID, request.split or "train", request.revision, request.key)
    return with_usual_columns(rows) or rows


def with_usual_columns(rows: Sequence[Row]) -> list[dict[str, Any]] | None:
    """Returns the rows with `prompt`, `completion` and `messages`; None where they are no dialogues with markers."""
    names = set(rows[0]) if rows else set()
    if "text" not in names or names & {"prompt", "completion", "messages"}:
        return None
    changed = []
    for row in rows:
        read = read_dialogue(row["text"]) if isinstance(row.get("text"), str) else None
        if read is None or not read.answer.strip():
            return None
        changed.append({**row, "prompt": read.prompt, "completion": read.answer, "messages": read.answered})
    return like(rows, changed)


plugin = Source(read_rows, has_messages=True, hub_id=HUB_ID, aliases=(HUB_ID,), of_layout=with_usual_columns)
