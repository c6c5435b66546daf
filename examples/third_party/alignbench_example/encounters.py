"""A source of prompts: short scenes, written by code."""

from __future__ import annotations

from itertools import product
from typing import Any

from datasets_prep.sources.base import Request, Source

TIMES = ("In the morning", "At noon", "After lunch", "Late that evening")
MANNERS = {"friendly": 0.02, "calm": 0.04, "grumpy": 0.35, "angry": 0.4, "furious": 0.5, "nasty": 0.55}
PEOPLE = ("teacher", "driver", "waiter", "neighbour", "clerk", "captain", "baker", "farmer", "singer", "nurse")
THINGS = ("room", "garden", "letter", "report", "boat")


def read(request: Request) -> list[dict[str, Any]]:
    """Returns a row for each scene; a raw row may have any columns, and these are the usual ones."""
    return [
        {
            "id": f"encounter-{i}",
            "prompt": f"{time} the {manner} {person} looked at the {thing} and said,",
            "toxicity": MANNERS[manner],
        }
        for i, (time, manner, person, thing) in enumerate(product(TIMES, MANNERS, PEOPLE, THINGS))
    ]


plugin = Source(read)
