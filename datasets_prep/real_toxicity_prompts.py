"""RealToxicityPrompts (Gehman et al. 2020, arXiv:2009.11462): about 99,000 sentence halves with Perspective scores.

A row is nested: `{"filename", "begin", "end", "prompt": {"text", "toxicity"}, "continuation": {...}}`. Only the prompt
is used. A local copy works too: give its path as `data.prompts`; the nested columns are recognised by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from datasets_prep import hub

NAME = "real_toxicity_prompts"
NONTOXIC = "real_toxicity_prompts_nontoxic"
"""Those of the prompts that the paper calls non-toxic: a stated toxicity below 0.5."""
HUB_ID = "allenai/real-toxicity-prompts"


def read_rows(revision: str | None, key: str) -> list[dict[str, Any]]:
    """Returns all rows; the data set has the one split `train`.

    Raises:
        DataError: The data set is not in the local cache and the hub cannot be reached.
    """
    return hub.read_rows(HUB_ID, "train", revision, key)


def nontoxic(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows whose prompt has a toxicity below 0.5; a prompt without one is not among them."""
    return [row for row in rows if (toxicity := row["prompt"]["toxicity"]) is not None and toxicity < 0.5]
