"""Toxic sentences and what people made of them: `s-nlp/paradetox`, or a file like it.

Logacheva et al. 2022. As pairs the paraphrase is preferred to the sentence, after the words that both begin with; two
that begin differently have no prompt, and are left out as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets_prep import hub
from datasets_prep.rows import Row, like
from datasets_prep.shared_beginnings import taken_apart
from datasets_prep.sources.base import Request, Source

HUB_ID = "s-nlp/paradetox"
_SIDES = (("en_neutral_comment", "en_toxic_comment"), ("neutral_comment", "toxic_comment"), ("neutral", "toxic"))
"""Columns of the paraphrase and of the sentence, in the data set and in others of its form."""


def read_rows(request: Request) -> Sequence[Row]:
    """Returns the rows of the data set; DataError where it is not in the local cache and cannot be fetched."""
    rows = hub.read_rows(HUB_ID, request.split or "train", request.revision, request.key)
    return with_usual_columns(rows) or rows


def with_usual_columns(rows: Sequence[Row]) -> list[dict[str, Any]] | None:
    """Returns the rows with `prompt`, `chosen` and `rejected`; None where they have other columns."""
    names = set(rows[0]) if rows else set()
    sides = next((sides for sides in _SIDES if set(sides) <= names), None)
    if sides is None or "prompt" in names:
        return None
    return like(rows, ({**row, **taken_apart(*(row.get(side) for side in sides))} for row in rows))


plugin = Source(read_rows, has_messages=True, hub_id=HUB_ID, aliases=(HUB_ID,), of_layout=with_usual_columns)
