from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from fixtures.paired import paired_jackknife

from alignbench.statistics.estimate import verdict
from alignbench.statistics.jackknife import (
    N_JACKKNIFE_GROUPS,
    interval,
    jackknife_group,
    jackknife_interval,
    jackknife_variances,
)

T_19 = 2.093  # 97.5 % point of Student's t with 19 degrees of freedom, from a printed table
T_9 = 2.262


@pytest.fixture(autouse=True)
def _no_numpy_warnings():
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


def slow_standard_error(value: float, replicates: list[float], sizes: list[int]) -> float:
    """Busing, Meijer and van der Leeden (1999), equations for the delete-m_j estimator, in exact fractions."""
    n, g = sum(sizes), len(sizes)
    theta = Fraction(value)
    others = [Fraction(r) for r in replicates]
    jackknifed = g * theta - sum((1 - Fraction(m, n)) * r for r, m in zip(others, sizes, strict=True))
    variance = Fraction(0)
    for r, m in zip(others, sizes, strict=True):
        h = Fraction(n, m)
        variance += (h * theta - (h - 1) * r - jackknifed) ** 2 / (h - 1)
    return math.sqrt(variance / g)


def test_hand_worked_equal_groups():
    # 20 replicates, ten at 0.48 and ten at 0.52: mean 0.5, sum of squares 20 * 0.0004 = 0.008,
    # standard error sqrt(19/20 * 0.008) = 0.08718, half width 2.093 times that = 0.18247.
    estimate = jackknife_interval(0.5, [0.48, 0.52] * 10)
    assert estimate.ci_high - 0.5 == pytest.approx(0.18247, abs=2e-5)
    assert 0.5 - estimate.ci_low == pytest.approx(0.18247, abs=2e-5)


def test_of_a_mean_it_is_the_usual_standard_error():
    # For a mean the jackknife over equal groups is the standard deviation of group means over sqrt(G).
    means = np.random.default_rng(0).normal(size=20)
    replicates = [(means.sum() - m) / 19 for m in means]
    estimate = jackknife_interval(float(means.mean()), replicates, [7] * 20)
    assert estimate.ci_high - estimate.value == pytest.approx(T_19 * means.std(ddof=1) / math.sqrt(20), rel=2e-4)


def test_unequal_groups_against_exact_fractions():
    rng = np.random.default_rng(1)
    sizes = [int(m) for m in rng.integers(5, 40, size=20)]
    replicates = [float(r) for r in rng.normal(0.4, 0.01, size=20)]
    estimate = jackknife_interval(0.4, replicates, sizes)
    error = slow_standard_error(0.4, replicates, sizes)
    assert estimate.ci_high - 0.4 == pytest.approx(T_19 * error, rel=2e-4)


def test_group_sizes_alone_make_no_uncertainty():
    # A metric that depends on nothing but the size of the corpus has no sampling error, whichever group is left out.
    sizes = [10, 30] * 10
    n = sum(sizes)
    replicates = [(n - m) ** -0.5 for m in sizes]
    weighted = jackknife_interval(n**-0.5, replicates, sizes)
    naive = jackknife_interval(n**-0.5, replicates)
    assert weighted.ci_high - weighted.ci_low < 0.1 * (naive.ci_high - naive.ci_low)


def test_empty_groups_are_left_out():
    replicates = [0.48, 0.52] * 5 + [None] * 10
    estimate = jackknife_interval(0.5, replicates)
    # Ten groups: sum of squares 0.004, standard error sqrt(0.9 * 0.004) = 0.06, nine degrees of freedom.
    assert estimate.n == 10
    assert estimate.ci_high - 0.5 == pytest.approx(T_9 * 0.06, rel=2e-4)
    by_size = jackknife_interval(0.5, [0.48, 0.52] * 5 + [0.5] * 10, [3] * 10 + [0] * 10)
    assert by_size.ci_high == pytest.approx(estimate.ci_high)


def test_too_few_groups_give_a_reason():
    estimate = jackknife_interval(0.5, [0.4] * 9 + [None] * 11)
    assert (estimate.ci_low, estimate.p_value) == (None, None)
    assert "9 groups" in estimate.reason


def test_difference_is_paired_by_group():
    noise = np.random.default_rng(2).normal(0, 0.05, size=20)
    mine, theirs = [float(0.3 + x) for x in noise], [float(0.4 + 1.001 * x) for x in noise]
    paired = paired_jackknife(0.3, mine, 0.4, theirs)
    assert paired.value == pytest.approx(-0.1)
    assert paired.ci_high - paired.ci_low < 0.01
    assert verdict(paired, "higher") == "worse"
    assert jackknife_interval(0.3, mine).ci_high > 0.4  # unpaired, the two overlap


def test_p_of_a_hand_worked_difference():
    # Standard error 0.08718 as above; a difference of 2.093 standard errors has p = 0.05.
    mine = [0.18247 - 0.02, 0.18247 + 0.02] * 10
    estimate = paired_jackknife(0.18247, mine, 0.0, [0.0] * 20)
    assert estimate.p_value == pytest.approx(0.05, abs=1e-4)
    assert estimate.ci_low == pytest.approx(0.0, abs=2e-5)


def test_group_missing_on_one_side_is_left_out():
    mine = [None, *[0.48, 0.52] * 9, 0.48]
    estimate = paired_jackknife(0.5, mine, 0.5, [0.5] * 20)
    assert estimate.n == 19


def test_identical_corpora():
    replicates = [0.4, 0.5] * 10
    estimate = paired_jackknife(0.45, replicates, 0.45, replicates)
    assert (estimate.value, estimate.p_value, estimate.ci_low) == (0.0, 1.0, None)
    assert verdict(estimate, "higher") == "not distinguishable"


def test_wrong_number_of_sizes():
    with pytest.raises(ValueError, match="20 replicates, but 3 group sizes"):
        jackknife_interval(0.5, [0.5] * 20, [1, 2, 3])


def test_coverage_for_corpus_distinct():
    rng = np.random.default_rng(3)
    n_prompts, n_words, vocabulary = 200, 12, 1500
    weights = 1 / np.arange(1, vocabulary + 1)
    weights /= weights.sum()
    groups = np.array([jackknife_group(f"prompt-{i}") for i in range(n_prompts)])
    sizes = np.bincount(groups, minlength=N_JACKKNIFE_GROUPS)

    def distinct(words):
        return len(np.unique(words)) / words.size

    estimates = []
    for _ in range(200):
        words = rng.choice(vocabulary, size=(n_prompts, n_words), p=weights)
        replicates = [distinct(words[groups != g]) for g in range(N_JACKKNIFE_GROUPS)]
        estimates.append(jackknife_interval(distinct(words), replicates, list(sizes)))
    true = np.mean([one.value for one in estimates])
    covered = np.mean([one.ci_low <= true <= one.ci_high for one in estimates])
    assert covered >= 0.93


@pytest.mark.parametrize("sizes", [None, [7] * 20, [*range(1, 19), 0, 0]])
def test_many_metrics_give_the_numbers_that_each_gives_alone(sizes):
    rng = np.random.default_rng(3)
    values = rng.normal(0.4, 0.1, 50)
    replicates = values[:, None] + rng.normal(0, 0.01, (50, 20))
    replicates[::7, 3] = replicates[5, :15] = np.nan
    variances = jackknife_variances(values, replicates, sizes)
    together = [interval(value, *one) for value, one in zip(values, variances, strict=True)]
    lists = [[None if math.isnan(one) else one for one in row] for row in replicates.tolist()]
    assert together == [jackknife_interval(value, row, sizes) for value, row in zip(values, lists, strict=True)]
    assert together[5].ci_low is None
