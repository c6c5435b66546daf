"""RealToxicityPrompts (Gehman et al. 2020, arXiv:2009.11462): about 99,000 sentence halves with Perspective scores.

A row is nested: `{"filename", "begin", "end", "prompt": {"text", "toxicity"}, "continuation": {...}}`. A local copy
works too: give its path as `data.prompts`; the nested columns are recognised by themselves.
"""

from __future__ import annotations

from typing import Any

from datasets_prep import hub
from datasets_prep.sources.base import Request, Source

HUB_ID = "allenai/real-toxicity-prompts"


def read_rows(request: Request) -> list[dict[str, Any]]:
    """Returns all rows; the data set has the one split `train`.

    Raises:
        DataError: The data set is not in the local cache and the hub cannot be reached.
    """
    return hub.read_rows(HUB_ID, "train", request.revision, request.key)


plugin = Source(read_rows, hub_id=HUB_ID)
