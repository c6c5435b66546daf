"""Those of RealToxicityPrompts that the paper calls non-toxic: a stated toxicity below 0.5."""

from __future__ import annotations

from typing import Any

from datasets_prep.sources import real_toxicity_prompts
from datasets_prep.sources.base import Request, Source


def read_rows(request: Request) -> list[dict[str, Any]]:
    """Returns the rows whose prompt has a toxicity below 0.5; a prompt without one is not among them."""
    rows = real_toxicity_prompts.read_rows(request)
    return [row for row in rows if (toxicity := row["prompt"]["toxicity"]) is not None and toxicity < 0.5]


plugin = Source(read_rows, hub_id=real_toxicity_prompts.HUB_ID)
