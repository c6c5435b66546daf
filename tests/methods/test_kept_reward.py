"""A reward goes into JSON and comes back as the same one, whatever a recipe makes it of."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from alignbench.errors import ScorerError, UsageError
from alignbench.methods.kept_reward import load_reward, moved_reward
from alignbench.pipeline.scorers import kept_reward, training_reward
from alignbench.recipe.loading import load
from alignbench.scorers.reward_model import reward_scorer

LENGTH = {"name": "length", "function": "rewards.py:length", "weight": -0.25}
REWARDS = {
    "classifier": {},
    "weighted": {"weight": 0.5, "transform": "probability"},
    "function": {"function": "rewards.py:length", "weight": -1.0},
    "sum": {"text": "prompt_and_completion", "also": [LENGTH]},
    "learned": {"run": "reward_model"},
    "learned sum": {"run": "reward_model", "also": [LENGTH]},
}
PROMPTS, TEXTS = ["the dog", "a cat"], ["runs now", "you are stupid"]


@pytest.fixture
def recipe(recipe_folder):
    """Reads the recipe of PPO with a reward."""
    Path("rewards.py").write_text("def length(prompts, completions):\n    return [len(c) for c in completions]\n")

    def read(reward):
        return next(
            one.recipe for one in load(["ppo.yaml"], [f"reward={json.dumps(reward)}"]) if one.recipe.name == "ppo"
        )

    return read


@pytest.fixture
def upstream(checkpoints, tmp_path):
    """The folder of a reward model."""
    from alignbench.models.loading import load_classifier

    model, tokenizer = load_classifier(str(checkpoints / "judge"), where="x", labels=["reward"])
    reward_scorer(model, tokenizer, name="x", text="prompt_and_completion").save(tmp_path / "artifact")
    return tmp_path / "artifact"


@pytest.mark.parametrize("name", REWARDS)
def test_it_is_the_same_again(recipe, upstream, tiny_policy, name, tmp_path, monkeypatch):
    """Also in another folder, where a path that began at the first one leads nowhere."""
    upstream = Path(os.path.relpath(upstream))
    of, policy = recipe(REWARDS[name]), tiny_policy()
    artifacts = {"reward": upstream} if "learned" in name else {}
    reward = training_reward(of, artifacts, "", torch.device("cpu"))
    kept = json.dumps(kept_reward(of, artifacts))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = load_reward(json.loads(kept), policy)
    assert type(again) is type(reward)
    assert again.fingerprint == reward.fingerprint
    assert again.score(PROMPTS, TEXTS) == reward.score(PROMPTS, TEXTS)


@pytest.mark.parametrize("name", ["sum", "learned sum"])
def test_it_can_be_taken_elsewhere(recipe, upstream, tiny_policy, name, tmp_path):
    of = recipe(REWARDS[name])
    artifacts = {"reward": upstream} if "learned" in name else {}
    reward = training_reward(of, artifacts, "", torch.device("cpu"))
    (tmp_path / "there").mkdir()
    taken = []

    def move(place):
        taken.append(place)
        copy = shutil.copytree if Path(place).is_dir() else shutil.copyfile
        return str(copy(place, tmp_path / "there" / Path(place).name))

    moved = moved_reward(kept_reward(of, artifacts), move)
    assert len(taken) == 2
    assert not [place for place in taken if place in json.dumps(moved)]
    Path("rewards.py").unlink()
    assert load_reward(moved, tiny_policy()).score(PROMPTS, TEXTS) == reward.score(PROMPTS, TEXTS)


def test_one_that_cannot_be_had_again_says_why(recipe, tiny_policy):
    kept = kept_reward(recipe(REWARDS["function"]), {})
    Path("rewards.py").write_text("def length(prompts, completions):\n    return [1.0 for _ in completions]\n")
    with pytest.raises(ScorerError, match=r"the function that scored .* function_sha256: .*, that of .*rewards.py"):
        load_reward(kept, tiny_policy())
    with pytest.raises(UsageError, match="reward: unknown scorer 'lexico', did you mean 'lexicon'"):
        load_reward([{"name": "main", "weight": 1.0, "kind": "lexico", "settings": {}}], tiny_policy())


def test_a_recipe_without_a_reward_keeps_nothing(recipe_folder):
    Path("words.txt").write_text("rude\n")
    [loaded] = load(["base.yaml"], ["reward=null", 'evaluation.scorers=[{"name": "x", "lexicon": "words.txt"}]'])
    assert kept_reward(loaded.recipe, {}) == []
