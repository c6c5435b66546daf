"""Whether a reward can read the longest completion is known before training: it is refused, not trained on gaps."""

import pytest
import torch

from alignbench.errors import TrainingError
from alignbench.methods.base import RunContext, TrainData
from alignbench.methods.ppo import PPO
from alignbench.models.chat import PlainTokenizer
from alignbench.records import Prompt
from alignbench.scorers.room import without_room
from alignbench.scorers.text_classifier import ClassifierScorer
from alignbench.scorers.weighted_sum import Term, WeightedSum

PROMPTS = [Prompt("a", "the old man"), Prompt("b", "two dogs")]


@pytest.fixture
def reward(checkpoints):
    """A classifier that reads 62 tokens, words of the policy's kind."""
    return ClassifierScorer.load(
        str(checkpoints / "classifier"), where="reward", revision=None, device=torch.device("cpu"), name="r",
        label="hate", transform="logit",
    )  # fmt: skip


class Free:
    name, fingerprint = "free", "free"

    def score(self, prompts, completions):
        return [0.0] * len(completions)


def test_every_classifier_of_a_sum_needs_room(tiny_policy, reward):
    policy = tiny_policy()
    both = WeightedSum([Term("main", Free(), 1.0), Term("r", reward, -1.0)], name="reward")
    for scorer in (reward, both):
        assert without_room(scorer, policy, PROMPTS, 62) == []
        [said] = without_room(scorer, policy, PROMPTS, 63)
        assert said.startswith("a completion of 63 tokens is about 63 tokens of the classifier 'r', which reads 62")
    assert without_room(Free(), policy, PROMPTS, 10**6) == []


def test_tokens_are_those_of_the_classifier(tiny_policy, reward, monkeypatch):
    """Two tokens of the policy for one of the classifier."""
    monkeypatch.setattr(PlainTokenizer, "encode", lambda self, text: [0] * 2 * len(text.split()))
    assert without_room(reward, tiny_policy(), PROMPTS, 124) == []
    assert len(without_room(reward, tiny_policy(), PROMPTS, 125)) == 1


def test_ppo_does_not_start(tiny_policy, reward, tmp_path):
    run = RunContext(
        seed=0, budget_completions=16, policy=tiny_policy(), load_reward_model=None, lora=None, reward=reward,
        reward_text="completion", checkpoints=tmp_path, step_done=lambda *_: None,
    )  # fmt: skip
    method = PPO(batch_size=8, mini_batch_size=4, completion_tokens=(4, 63))
    with pytest.raises(TrainingError, match=r"^method\.completion_tokens: expected shorter completions: .*reads 62"):
        method.train(TrainData(PROMPTS, []), run)
