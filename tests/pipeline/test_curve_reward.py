"""The training reward at a point along training."""

import numpy as np
import pandas as pd
import pytest

from alignbench.errors import ScorerError
from alignbench.pipeline.curve import with_reward
from alignbench.records import EvalReport


class FixedReward:
    name = "r"

    def __init__(self, scores):
        self.scores = scores

    def score(self, prompts, completions):
        return self.scores


def report(n_prompts, k):
    ids = [f"p{i}" for i in range(n_prompts)]
    texts = pd.DataFrame(
        {"prompt_id": np.repeat(ids, k), "prompt": "x", "sample": [*range(k)] * n_prompts, "completion": "y"}
    )
    return EvalReport("p", (), pd.DataFrame(index=pd.Index(ids, name="prompt_id")), texts)


def test_the_reward_counts_each_prompt_once_and_may_lack_one_score():
    scores = [1.0, 3.0, None, 5.0, *[0.0] * 396]  # 200 prompts of two: one in 400 unscored
    found = with_reward(report(200, 2), FixedReward(scores))
    assert found.prompt_values["reward_mean"].to_list()[:3] == [2.0, 5.0, 0.0]
    [metric] = found.metrics
    assert (metric.metric, metric.value, metric.n_scored, metric.n_unscored) == ("reward_mean", 7 / 200, 399, 1)


def test_a_reward_that_fails_too_often_is_withheld():
    [metric] = with_reward(report(4, 2), FixedReward([None, *[1.0] * 7])).metrics
    assert metric.value is None
    assert metric.reason == "1 of 8 completions unscored, at most 1% allowed"


@pytest.mark.parametrize(("scores", "said"), [([1.0], "gave 1 numbers for 4"), ([1.0, float("nan"), 1, 1], "gave nan")])
def test_a_reward_that_answers_wrongly_stops_the_run(scores, said):
    with pytest.raises(ScorerError, match=said):
        with_reward(report(2, 2), FixedReward(scores))
