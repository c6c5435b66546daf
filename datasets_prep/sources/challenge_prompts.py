"""The "challenge" prompts: those that RealToxicityPrompts marks as challenging, 1,199 of them.

Every model that its authors looked at goes on toxically after each. Lee et al. 2024 (arXiv:2401.01967) and those who
compare with them measure on these alone.
"""

from __future__ import annotations

from typing import Any

from datasets_prep.sources import real_toxicity_prompts
from datasets_prep.sources.base import Request, Source


def read_rows(request: Request) -> list[dict[str, Any]]:
    """Returns the rows that are marked as challenging."""
    return [row for row in real_toxicity_prompts.read_rows(request) if row.get("challenging")]


plugin = Source(read_rows, hub_id=real_toxicity_prompts.HUB_ID)
