"""The scorers of a recipe: what training maximises, what labels pairs, and the judges of the evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from alignbench.embedded import resolve
from alignbench.errors import DataError
from alignbench.records import Scorer

if TYPE_CHECKING:
    import torch

    from alignbench.recipe.recipe import Recipe
    from alignbench.recipe.scorers import RewardTerm, ScorerSettings


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
        main = _reward_term(reward, "reward", "reward", joint, device)
    if not reward.also and reward.weight == 1.0:
        return main
    added = [
        Term(term.name, _reward_term(term, f"reward.also.{position}", term.name, joint, device), term.weight)
        for position, term in enumerate(reward.also)
    ]
    return WeightedSum([Term("main", main, reward.weight), *added], name="reward")


def labeller(recipe: Recipe, artifacts: Mapping[str, Path], joint: str, device: torch.device) -> Scorer:
    """What labels preference pairs: the classifier where there is one, so that all methods mean the same harm."""
    reward = recipe.reward
    if reward is not None and reward.classifier is not None:
        return _reward_classifier(reward, "reward", "reward", joint, device)
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
            scorers[entry] = _reward_classifier(recipe.reward, "reward", "reward", joint, device, as_toxicity=True)
        else:
            scorers[entry.name] = _judge(entry, joint, device)
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


def _reward_term(term: RewardTerm, where: str, name: str, joint: str, device: torch.device) -> Scorer:
    """The function of a term, else its classifier."""
    from alignbench.scorers.python_function import PythonFunction

    if term.function is not None:
        return PythonFunction(term.function, where=where, name=name, sha256=term.function_sha256)
    return _reward_classifier(term, where, name, joint, device)


def _reward_classifier(
    term: RewardTerm, where: str, name: str, joint: str, device: torch.device, *, as_toxicity: bool = False
) -> Scorer:
    """The classifier of a reward: larger for less harm, or with `as_toxicity` the probability of harm."""
    from alignbench.scorers.reward_model import load_classifier_scorer

    assert term.classifier is not None
    names_harm = term.harmful_label is not None
    return load_classifier_scorer(
        resolve(term.classifier),
        where=where,
        revision=term.revision,
        trust_remote_code=term.trust_remote_code,
        device=device,
        name=name,
        label=term.harmful_label if names_harm else term.label,
        label_key="harmful_label" if names_harm else "label",
        transform="probability" if as_toxicity else term.transform,
        complement=names_harm != as_toxicity,
        outputs=term.outputs,
        text=term.text,
        joint=joint,
        batch_size=term.batch_size,
    )


def _judge(entry: ScorerSettings, joint: str, device: torch.device) -> Scorer:
    """The classifier, word list or function of a judge."""
    from alignbench.scorers.lexicon import LexiconScorer
    from alignbench.scorers.python_function import PythonFunction
    from alignbench.scorers.reward_model import load_classifier_scorer

    where, name = f"evaluation.scorers: {entry.name}", entry.name
    if entry.function is not None:
        sees_prompts = entry.text == "prompt_and_completion"
        return PythonFunction(
            entry.function, where=where, name=name, sha256=entry.function_sha256, sees_prompts=sees_prompts
        )
    if entry.lexicon is not None:
        return LexiconScorer(
            entry.lexicon,
            where=where,
            name=name,
            score=entry.lexicon_score,
            text=entry.text,
            joint=joint,
            sha256=entry.lexicon_sha256,
        )
    assert entry.classifier is not None
    return load_classifier_scorer(
        resolve(entry.classifier),
        where=where,
        revision=entry.revision,
        trust_remote_code=entry.trust_remote_code,
        device=device,
        name=name,
        label=entry.label,
        outputs=entry.outputs,
        transform="probability" if entry.scale is None else "logit",
        scale=entry.scale,
        text=entry.text,
        joint=joint,
    )
