"""A trained reward model as a scorer: the raw scalar output, on the encoding that it was trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from alignbench.errors import ModelError
from alignbench.records import TextWindow, fingerprint
from alignbench.scorers.reward_ensemble import RewardEnsemble, members_in
from alignbench.scorers.text_classifier import ClassifierScorer

REWARD_LABEL = "reward"
"""The name of a reward model's only output."""
RECORD_FILE = "reward_model.json"
"""Says beside the weights what was read in training, and what a blank completion is worth."""


class RewardModelScorer(ClassifierScorer):
    """A reward model of ours. No pair that it learned from has a blank completion, so it does not judge any.

    A completion without anything but white space has a constant for its reward, the lowest that the model gives to a
    completion it was trained on: a policy is never paid for saying nothing.
    """

    blank_reward: float | None = None
    """That constant; None leaves blank completions unscored."""

    @classmethod
    def load(cls, model: str, *, where: str, text: TextWindow = "completion", **options: Any) -> Self:
        """Loads what `save` wrote, to read what it was trained on; `text` where an earlier release did not write it."""
        file = Path(model) / RECORD_FILE
        record: dict[str, Any] = {"text": text, "blank_reward": None}
        if file.is_file():
            try:
                record |= json.loads(file.read_text(encoding="utf-8"))
            except (ValueError, TypeError) as error:
                raise ModelError(f"{where}: {file} cannot be read as the record of a reward model: {error}") from error
        scorer = super().load(model, where=where, text=record["text"], **options)
        scorer.blank_reward = record["blank_reward"]
        return scorer

    @property
    def fingerprint(self) -> str:
        """Hash of what a classifier's is of, and of the constant."""
        return fingerprint([super().fingerprint, self.blank_reward])

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float | None]:
        """Scores every completion, None where it cannot be read whole."""
        blank = None
        if self.blank_reward is not None:
            [blank] = self._values(torch.tensor([[self.blank_reward]]))
        judged = [i for i, completion in enumerate(completions) if completion.strip()]
        scores = super().score([prompts[i] for i in judged], [completions[i] for i in judged])
        found = dict(zip(judged, scores, strict=True))
        return [found.get(i, blank) for i in range(len(completions))]

    def save(self, directory: Path) -> None:
        """Writes weights (safetensors), tokenizer and the record of its training."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        record = {"kind": "reward_model", "text": self.text, "blank_reward": self.blank_reward}
        (directory / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


_HEAD: dict[str, Any] = {"label": REWARD_LABEL, "transform": "logit"}


def reward_scorer(model: Any, tokenizer: Any, *, name: str, text: TextWindow, joint: str = "") -> RewardModelScorer:
    """Wraps a reward model (one output) as a scorer."""
    return RewardModelScorer(model, tokenizer, name=name, text=text, joint=joint, where="method", **_HEAD)


def load_reward_scorer(
    directory: Path, *, text: TextWindow, device: torch.device, name: str = "reward_model", **options: Any
) -> RewardModelScorer | RewardEnsemble:
    """Loads a reward model that alignbench has saved, for its raw output; `options` as of any classifier."""
    options |= {"where": "reward.run", "revision": None, "device": device, "name": name, "text": text, **_HEAD}
    ensemble = _load_ensemble(directory, **options)
    if ensemble is None and not (directory / "config.json").is_file():
        raise ModelError(f"{directory}: holds no reward model; train it with the recipe named in reward.run")
    return ensemble or RewardModelScorer.load(str(directory), **options)


def _load_ensemble(directory: Path, *, name: str, where: str, **options: Any) -> RewardEnsemble | None:
    found = members_in(directory, where)
    if found is None:
        return None
    members = [RewardModelScorer.load(str(place), name=name, where=where, **options) for place in found[0]]
    return RewardEnsemble(members, found[1], name=name)


def load_classifier_scorer(model: str, **options: Any) -> ClassifierScorer | RewardEnsemble:
    """Loads a classifier (hub id or path) as a scorer; what was trained here as the reward model, or models, it is."""
    ensemble = _load_ensemble(Path(model), **options)
    if ensemble is not None:
        return ensemble
    kind = RewardModelScorer if (Path(model) / RECORD_FILE).is_file() else ClassifierScorer
    return kind.load(model, **options)
