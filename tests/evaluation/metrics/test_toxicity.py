import math
import statistics

import numpy as np
import pytest

from alignbench.evaluation.metrics.aggregate import prompt_means
from alignbench.evaluation.metrics.toxicity import is_toxic, pooled_std, prompt_max

NAN = float("nan")
SCORES = np.array([[0.2, 0.6], [0.5, 0.1], [0.9, NAN]])
GROUPS = np.array([3, 3, 7])


def test_means_by_hand():
    assert prompt_means(SCORES) == pytest.approx([0.4, 0.3, 0.9])


def test_prompt_without_any_score_has_no_mean():
    means = prompt_means(np.array([[NAN, NAN], [0.25, 0.75]]))
    assert math.isnan(means[0])
    assert means[1] == 0.5


def test_rate_by_hand_with_threshold_in_and_out():
    inclusive, exclusive = (is_toxic(SCORES, 0.5, inclusive=inclusive) for inclusive in (True, False))
    assert prompt_means(inclusive) == pytest.approx([0.5, 0.5, 1.0])
    assert prompt_means(exclusive) == pytest.approx([0.5, 0.0, 1.0])


def test_maximum_counts_a_prompt_with_an_unscored_completion_as_unscored():
    maxima = prompt_max(SCORES)
    assert maxima[:2] == pytest.approx([0.6, 0.5])
    assert math.isnan(maxima[2]), "0.9 would be a maximum over one completion instead of two"


def test_toxicity_probability_by_hand():
    inclusive, exclusive = (prompt_max(is_toxic(SCORES, 0.5, inclusive=inclusive)) for inclusive in (True, False))
    assert inclusive[:2].tolist() == [1.0, 1.0]
    assert exclusive[:2].tolist() == [1.0, 0.0]
    assert math.isnan(inclusive[2])
    assert math.isnan(exclusive[2])


def test_expected_maximum_against_loops():
    rng = np.random.default_rng(0)
    scores = rng.random((60, 5))
    scores[rng.random((60, 5)) < 0.05] = NAN
    scores[0, 0] = 0.5
    maxima, hits, n_unscored = [], [], 0
    for row in scores.tolist():
        if any(math.isnan(score) for score in row):
            n_unscored += 1
            continue
        maxima.append(sorted(row)[-1])
        hits.append(any(score >= 0.5 for score in row))
    measured, probability = prompt_max(scores), prompt_max(is_toxic(scores, 0.5, inclusive=True))
    assert 0 < n_unscored == np.isnan(measured).sum() == np.isnan(probability).sum()
    assert np.nanmean(measured) == pytest.approx(statistics.fmean(maxima))
    assert np.nanmean(probability) == pytest.approx(statistics.fmean(hits))


def test_std_is_the_population_std_of_all_scored_completions():
    # Deviations of .2 .6 .5 .1 .9 from .46: squares .0676 .0196 .0016 .1296 .1936, together .412; .412 / 5 = .0824.
    statistic = pooled_std(SCORES, GROUPS)
    assert statistic.value == pytest.approx(math.sqrt(0.0824))
    # Without group 3 only .9 is left; without group 7 .2 .6 .5 .1: mean .35, squares .0225 .0625 .0225 .0625.
    assert statistic.replicates[3] == pytest.approx(0.0, abs=1e-12)
    assert statistic.replicates[7] == pytest.approx(math.sqrt(0.17 / 4))
    assert [g for g, replicate in enumerate(statistic.replicates) if replicate is not None] == [3, 7]


def test_std_replicates_against_deletion():
    rng = np.random.default_rng(1)
    scores = 0.999 + 1e-4 * rng.random((90, 3))
    scores[rng.random((90, 3)) < 0.1] = NAN
    groups = rng.integers(0, 20, size=90)
    statistic = pooled_std(scores, groups)
    for group in range(20):
        left = [s for row, g in zip(scores.tolist(), groups, strict=True) if g != group for s in row if s == s]
        assert statistic.replicates[group] == pytest.approx(statistics.pstdev(left), rel=1e-9)


def test_std_of_nothing_is_none():
    statistic = pooled_std(np.full((2, 2), NAN), np.array([0, 1]))
    assert statistic.value is None
    assert statistic.replicates == (None,) * 20


def test_std_without_the_only_group_is_none():
    statistic = pooled_std(np.array([[0.1, 0.3]]), np.array([4]))
    assert statistic.value == pytest.approx(0.1)
    assert statistic.replicates == (None,) * 20
