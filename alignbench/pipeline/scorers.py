"""The scorers of a recipe: what training maximises, what labels pairs, and the judges of the evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.embedded import resolve
from alignbench.errors import DataError
from alignbench.recipe.scorers import with_located_files
from alignbench.records import Scorer
from alignbench.scorers.base import Place
from alignbench.scorers.classifier import ClassifierReward

if TYPE_CHECKING:
    import torch

    from alignbench.recipe.recipe import Recipe
    from alignbench.recipe.scorers import RewardTerm


def training_reward(recipe: Recipe, artifacts: Mapping[str, Path], joint: str, device: torch.device) -> Scorer | None:
    """What training maximises: the score of the reward block, and what it adds to it; None without that block.

    Args:
        recipe: Its settings.
        artifacts: Directories of upstream runs by role; `reward` is the reward model that takes the block's place.
        joint: What comes between a prompt and its completion where a scorer reads both.
        device: Where classifiers compute.
    """
    from alignbench.scorers.reward_model import load_reward_scorer
    from alignbench.scorers.weighted_sum import Term, WeightedSum

    reward = recipe.reward
    if reward is None:
        return None
    if "reward" in artifacts:
        main: Scorer = load_reward_scorer(
            artifacts["reward"],
            text=reward.text,
            joint=joint,
            device=device,
            trust_remote_code=reward.trust_remote_code,
        )
    else:
        main = reward.scorer(Place("reward", "reward", device, resolve, joint))
    if not reward.also and reward.weight == 1.0:
        return main
    added = [
        Term(term.name, term.scorer(Place(f"reward.also.{position}", term.name, device, resolve, joint)), term.weight)
        for position, term in enumerate(reward.also)
    ]
    return WeightedSum([Term("main", main, reward.weight), *added], name="reward")


def kept_reward(recipe: Recipe, artifacts: Mapping[str, Path]) -> list[dict[str, Any]]:
    """What `methods.kept_reward.load_reward` makes the training reward of again, JSON-like; empty without that block.

    A reward model is named by the folder of its run. Paths are whole: a policy is loaded from any folder.
    """
    from alignbench.scorers.reward_model import REWARD_LABEL

    reward = recipe.reward
    if reward is None:
        return []
    if "reward" in artifacts:
        settings = {"classifier": _whole(artifacts["reward"]), "label": REWARD_LABEL, "text": reward.text}
        main = {"kind": "classifier", "settings": settings | {"trust_remote_code": reward.trust_remote_code}}
    else:
        main = _kept(reward)
    added = [{"name": term.name, "weight": term.weight, **_kept(term)} for term in reward.also]
    return [{"name": "main", "weight": reward.weight, **main}, *added]


def _kept(term: RewardTerm) -> dict[str, Any]:
    assert term.source is not None
    settings, values = term.kinds[term.source], with_located_files(term.model_dump(mode="json"), _whole)
    values |= {model.key: _whole(model.name) for model in settings.models(term) if values.get(model.key) == model.name}
    return {"kind": term.source, "settings": {key: values[key] for key in settings.model_fields}}


def _whole(path: str | Path) -> str:
    """The whole path of a file or folder that is there; anything else, such as a hub id, as it is."""
    return str(Path(path).resolve()) if Path(path).exists() else str(path)


def labeller(recipe: Recipe, artifacts: Mapping[str, Path], joint: str, device: torch.device) -> Scorer:
    """What labels preference pairs: the classifier where there is one, so that all methods mean the same harm."""
    reward = recipe.reward
    if reward is not None and reward.classifier is not None:
        return ClassifierReward.load(reward, Place("reward", "reward", device, resolve, joint))
    scorer = training_reward(recipe, artifacts, joint, device)
    if scorer is None:
        raise DataError("reward: got nothing, expected a reward block: preference pairs are labelled by it")
    return scorer


def judges(recipe: Recipe, joint: str, device: torch.device) -> dict[str, Scorer]:
    """The scorers of the evaluation by name, each giving a number between 0 and 1, larger for more harm."""
    scorers: dict[str, Scorer] = {}
    for entry in recipe.evaluation.scorers:
        if isinstance(entry, str):
            assert recipe.reward is not None
            place = Place("reward", "reward", device, resolve, joint)
            scorers[entry] = ClassifierReward.load(recipe.reward, place, as_judge=True)
        else:
            place = Place(f"evaluation.scorers: {entry.name}", entry.name, device, resolve, joint, entry.text)
            scorers[entry.name] = entry.scorer(place)
    return scorers


def judges_that_see_prompts(recipe: Recipe) -> list[str]:
    """Names of the scorers of the evaluation that read prompt and completion together."""
    reward, windows = recipe.reward, dict[str, str]()
    for entry in recipe.evaluation.scorers:
        if not isinstance(entry, str):
            windows[entry.name] = entry.text
        elif reward is not None:
            windows[entry] = reward.text
    return [name for name, window in windows.items() if window != "completion"]
