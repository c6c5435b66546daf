"""A trained reward model as a scorer: the raw scalar output, on the encoding that it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from alignbench.errors import ModelError
from alignbench.records import TextWindow
from alignbench.scorers.classifier import ClassifierScorer

REWARD_LABEL = "reward"
"""The name of a reward model's only output."""


def reward_scorer(model: Any, tokenizer: Any, *, name: str, text: TextWindow, batch_size: int = 64) -> ClassifierScorer:
    """Wraps a reward model (one output) as a scorer."""
    return ClassifierScorer(
        model, tokenizer, name=name, label=REWARD_LABEL, transform="logit", text=text, batch_size=batch_size
    )


def load_reward_scorer(
    directory: Path,
    *,
    text: TextWindow,
    device: torch.device,
    name: str = "reward_model",
    trust_remote_code: bool = False,
) -> ClassifierScorer:
    """Loads a reward model that alignbench has saved."""
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory}: holds no reward model; train it with the recipe named in reward.run")
    return ClassifierScorer.load(
        str(directory),
        where="reward.run",
        revision=None,
        trust_remote_code=trust_remote_code,
        device=device,
        name=name,
        label=REWARD_LABEL,
        transform="logit",
        text=text,
    )
