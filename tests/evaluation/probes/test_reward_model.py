"""The reward model's metrics, by hand and against scipy."""

import numpy as np
import pytest
import scipy.stats

from alignbench.evaluation.probes.reward_model import evaluate_reward_model, rank_correlation
from alignbench.records import Completion, PreferencePair, Prompt
from alignbench.statistics.prompt_means import mean_interval


class Lookup:
    """Scores a completion by a table."""

    name = "model"
    fingerprint = "lookup"

    def __init__(self, table):
        self.table = table

    def score(self, prompts, completions):
        return [self.table[text] for text in completions]


def pair(i, chosen, rejected, chosen_reward, rejected_reward):
    prompt = Prompt(f"p{i}", f"prompt {i}")
    made = [Completion(prompt.id, j, text, (1,), "length") for j, text in enumerate((chosen, rejected))]
    return PreferencePair(prompt, *made, chosen_reward, rejected_reward)


def test_accuracy_gap_and_agreement_by_hand():
    heldout = [pair(0, "a", "b", 2.0, 1.0), pair(1, "c", "d", 3.0, 0.0), pair(2, "e", "f", 5.0, 4.0)]
    train = [pair(3, "a", "b", 2.0, 1.0), pair(4, "c", "b", 3.0, 0.0)]
    # Held out: right, wrong, tie: (1 + 0 + 0.5) / 3. In training: right, wrong.
    table = {"a": 0.9, "b": 0.1, "c": 0.05, "d": 0.6, "e": 0.7, "f": 0.7}
    report = evaluate_reward_model(Lookup(table), train, heldout)
    values = {metric.metric: metric.value for metric in report.metrics}
    assert values["pair_accuracy"] == pytest.approx(0.5)
    assert values["pair_accuracy_train"] == pytest.approx(0.5)
    assert values["pair_accuracy_gap"] == pytest.approx(0.0)
    expected = scipy.stats.spearmanr([0.9, 0.05, 0.7, 0.1, 0.6, 0.7], [2, 3, 5, 1, 0, 4]).statistic
    assert values["label_agreement"] == pytest.approx(expected)
    assert list(report.prompt_values["pair_accuracy"]) == [1.0, 0.0, 0.5]


def test_a_pair_that_cannot_be_scored_is_counted():
    heldout = [pair(0, "a", "b", 2.0, 1.0), pair(1, "c", "b", 3.0, 0.0)]
    report = evaluate_reward_model(Lookup({"a": 1.0, "b": 0.0, "c": None}), heldout, heldout)
    accuracy = next(metric for metric in report.metrics if metric.metric == "pair_accuracy")
    assert (accuracy.value, accuracy.n_scored, accuracy.n_unscored) == (1.0, 1, 1)
    agreement = next(metric for metric in report.metrics if metric.metric == "label_agreement")
    expected = scipy.stats.spearmanr([1.0, 0.0, 0.0], [2, 1, 0]).statistic
    assert (agreement.value, agreement.n_scored, agreement.n_unscored) == (pytest.approx(expected), 3, 1)


def test_pairs_of_prompts_that_are_variants_of_one_text_are_one_witness():
    # Twenty texts, three variants each that come out alike, twelve of the twenty right.
    heldout = [pair(i, *(("a", "b") if i // 3 < 12 else ("b", "a")), 2.0, 1.0) for i in range(60)]
    groups = {f"p{i}": f"text {i // 3}" for i in range(60)}
    report = evaluate_reward_model(Lookup({"a": 1.0, "b": 0.0}), heldout, heldout, groups)
    by_name = {metric.metric: metric for metric in report.metrics}
    by_hand = mean_interval([1.0] * 12 + [0.0] * 8)
    found = by_name["pair_accuracy"]
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((0.6, by_hand.ci_low, by_hand.ci_high))
    assert found.ci_low < by_name["pair_accuracy_train"].ci_low
    assert report.prompt_groups == groups


def test_nothing_scored_is_no_agreement():
    heldout = [pair(0, "a", "b", 2.0, 1.0)]
    report = evaluate_reward_model(Lookup({"a": None, "b": 0.5}), heldout, heldout)
    agreement = next(metric for metric in report.metrics if metric.metric == "label_agreement")
    assert (agreement.value, agreement.reason) == (None, "fewer than two completions have a score")


def test_a_model_with_one_score_for_everything_has_no_agreement():
    estimate = rank_correlation(np.ones(5), np.arange(5.0))
    assert estimate.value is None
    assert "same score" in estimate.reason
