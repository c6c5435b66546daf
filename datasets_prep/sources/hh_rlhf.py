"""Pairs of dialogues that begin alike, the first one preferred: the harmless part of `Anthropic/hh-rlhf`.

Bai et al. 2022 (arXiv:2204.05862). Any rows with `chosen` and `rejected` and no prompt are read alike: texts, or lists
of messages. The prompt is what both begin with, up to the marker of the last answer that is in both; in texts without
markers, up to the last whole word. A row whose two sides share no beginning has no prompt, and is left out as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets_prep import hub, local_files
from datasets_prep.rows import Row, like
from datasets_prep.shared_beginnings import taken_apart
from datasets_prep.sources.base import Request, Source

HUB_ID = "Anthropic/hh-rlhf"


def read_rows(request: Request) -> Sequence[Row]:
    """Returns the rows of `harmless-base`; DataError where its file is not in the local cache and cannot be fetched."""
    name = f"harmless-base/{request.split or 'train'}.jsonl.gz"
    rows = local_files.read_rows(hub.file_path(HUB_ID, name, request.revision, request.key), request.key)
    return with_usual_columns(rows) or rows


def with_usual_columns(rows: Sequence[Row]) -> list[dict[str, Any]] | None:
    """Returns the rows with `prompt`, and `chosen` and `rejected` without it; None where they are no such pairs."""
    names = set(rows[0]) if rows else set()
    if not {"chosen", "rejected"} <= names or names & {"prompt", "messages"}:
        return None
    return like(rows, ({**row, **taken_apart(row.get("chosen"), row.get("rejected"))} for row in rows))


plugin = Source(read_rows, has_messages=True, hub_id=HUB_ID, of_layout=with_usual_columns)
