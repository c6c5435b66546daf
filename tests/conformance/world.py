"""The tiny models and prompts that checks use: those that ship with alignbench."""

from __future__ import annotations

import gzip
import json
from itertools import islice

from alignbench.embedded import resolve
from alignbench.models.language_model import LanguageModel
from alignbench.models.loading import load_language_model
from alignbench.records import Prompt

KEPT_REWARD = (
    {"name": "main", "weight": 1.0, "kind": "classifier",
     "settings": {"classifier": "embedded/classifier", "label": "nothate"}},
)  # fmt: skip
"""The reward of the embedded world, as a method is given it."""


def tiny_policy() -> LanguageModel:
    """Loads the policy of the embedded world."""
    return load_language_model(resolve("embedded/policy"))


def prompts(n: int = 8) -> list[Prompt]:
    """Returns the first n prompts of the embedded world."""
    with gzip.open(resolve("embedded/prompts"), "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, n)]
    return [Prompt(row["id"], row["prompt"]["text"]) for row in rows]
