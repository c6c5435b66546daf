from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from fixtures.paired import paired_difference
from scipy import stats

from alignbench.statistics.estimate import Estimate, verdict
from alignbench.statistics.prompt_means import (
    column_means,
    degrees_of_freedom,
    mean_interval,
    mean_intervals,
    n_moved,
    transformed,
    untransformed,
    variances_of_means,
)


@pytest.fixture(autouse=True)
def _no_numpy_warnings():
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


def hall(t, skewness, n):
    """Hall's transformation, as in the module docstring but with its own brackets."""
    a = skewness / math.sqrt(n)
    return t + a * t**2 / 3 + a / 6 + (a / 3) ** 2 * t**3 / 3


def test_interval_of_symmetric_values_is_the_t_interval():
    # Ten prompts, five of them 1: mean 0.5, sample variance 2.5 / 9, standard error 1/6, t with 9 degrees of freedom
    # 2.2622. Nothing is skewed.
    estimate = mean_interval([0.0, 1.0] * 5)
    assert (estimate.value, estimate.n) == (0.5, 10)
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx((0.5 - 2.2622 / 6, 0.5 + 2.2622 / 6), abs=1e-4)


def test_p_by_hand():
    # Differences +1 four times, -1 once, 0 five times: mean 0.3, sum of squares 5 - 10 * 0.09 = 4.1, standard error
    # sqrt(4.1 / 90) = 0.21344, t = 1.40556. Third moment (4 * 0.343 - 2.197 - 5 * 0.027) / 10 = -0.096, skewness
    # -0.096 / 0.41^1.5 = -0.36568.
    estimate = paired_difference([1.0] * 4 + [0.0] * 6, [0.0] * 4 + [1.0] + [0.0] * 5)
    t = 0.3 / math.sqrt(4.1 / 90)
    expected = max(2 * stats.t.sf(abs(x), 9) for x in (t, hall(t, -0.096 / 0.41**1.5, 10)))
    assert estimate.value == pytest.approx(0.3)
    assert estimate.p_value == pytest.approx(expected)


@pytest.mark.parametrize("lean", [2.0, 1e-3, 1e-7, 0.0, -0.4])
@pytest.mark.parametrize("h", [-9.0, -2.0, 0.0, 0.3, 5.0])
def test_the_transformation_is_undone(lean, h):
    t = untransformed(h, lean)
    assert transformed(t, lean) == pytest.approx(h, abs=1e-5)
    assert hall(t, lean * 5, 25) == pytest.approx(h, abs=1e-5)


def test_against_scipy_on_skewed_values():
    rng = np.random.default_rng(5)
    values = rng.lognormal(size=60) - 1.2
    estimate = mean_interval(values)
    test = stats.ttest_1samp(values, 0)
    interval, skewness = test.confidence_interval(), stats.skew(values)
    assert skewness > 1
    assert estimate.ci_low == pytest.approx(interval.low)  # the side of the long tail is Student's
    assert estimate.ci_high > interval.high + 0.02
    assert 2 * stats.t.sf(abs(hall((values.mean() - estimate.ci_high) / stats.sem(values), skewness, 60)), 59) == (
        pytest.approx(0.05, rel=1e-6)
    )
    assert estimate.p_value == pytest.approx(
        max(test.pvalue, 2 * stats.t.sf(abs(hall(test.statistic, skewness, 60)), 59))
    )


def test_interval_and_p_never_contradict_each_other():
    rng = np.random.default_rng(0)
    columns = np.concatenate(
        [rng.normal(size=(40, 1000)), rng.exponential(size=(40, 1000)) - 1, 1 - rng.exponential(size=(40, 1000))],
        axis=1,
    ) + np.tile(np.linspace(0.2, 0.45, 1000), 3)
    estimates = column_means(columns)
    near = 0
    for one in estimates:
        excludes = one.ci_low > 0 or one.ci_high < 0
        assert excludes == (one.p_value <= 0.05)
        near += 0.04 < one.p_value < 0.06
    assert near > 45  # the property was put to the test where it matters


@pytest.mark.parametrize("kind", ["normal", "skewed", "skewed the other way"])
@pytest.mark.parametrize("n", [10, 20, 200])
def test_false_alarms_are_at_most_their_level(kind, n):
    rng = np.random.default_rng(1)
    columns = rng.normal(size=(n, 2000)) if kind == "normal" else rng.exponential(size=(n, 2000)) - 1
    columns = -columns if kind == "skewed the other way" else columns
    p = np.array([one.p_value if one.p_value is not None else 1.0 for one in column_means(columns)])
    assert np.mean(p <= 0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert np.mean(p <= 0.01) <= 0.0125 + 3 * math.sqrt(0.0125 / 2000)
    if kind != "normal":
        assert np.mean(stats.ttest_1samp(columns, 0).pvalue <= 0.01) > np.mean(p <= 0.01)


def test_few_skewed_prompts_prove_nothing_against_their_tail():
    # Nineteen prompts that get a little better, were it not for one that gets much worse.
    values = np.append(np.full(14, -0.05) - np.arange(14) / 1000, 0.4)
    estimate = mean_interval(values)
    assert (estimate.p_value, estimate.ci_low) == (None, None)
    assert estimate.reason == "15 measured prompts whose values are skewed, an interval needs 20"
    assert mean_interval(-values).p_value is None
    assert mean_interval(values + 0.2).p_value is not None  # towards the tail there is no haste
    assert mean_interval(np.append(np.tile(values[:-1], 2), 0.4)).p_value is not None


def test_variants_of_one_text_are_one_witness():
    rng = np.random.default_rng(2)
    texts = rng.normal(size=(25, 1))
    values = (texts + 0.01 * rng.normal(size=(25, 4))).ravel()
    groups = np.repeat(np.arange(25), 4)
    estimate, means = mean_interval(values, groups), mean_interval(values.reshape(25, 4).mean(axis=1))
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx((means.ci_low, means.ci_high))
    assert estimate.n == 100
    naive = mean_interval(values)
    assert (estimate.ci_high - estimate.ci_low) > 1.8 * (naive.ci_high - naive.ci_low)
    each = mean_interval(values, np.arange(100))
    assert (each.ci_low, each.p_value) == pytest.approx((naive.ci_low, naive.p_value))


def test_degrees_of_freedom_of_groups():
    assert degrees_of_freedom(np.full(25, 1 / 25)) == pytest.approx(24)
    assert degrees_of_freedom(np.array([*[1 / 200] * 100, *[0.1] * 5])) == pytest.approx(5, abs=0.5)


def test_a_few_large_groups_among_prompts_alone_call_no_more_than_they_may():
    rng = np.random.default_rng(3)
    groups = np.array([*range(100), *np.repeat(np.arange(100, 105), 20)])
    values = rng.normal(0, 0.5, (105, 1000))[groups] + rng.normal(0, 0.2, (200, 1000))
    p = np.array([one.p_value for one in column_means(values, groups)])
    assert np.mean(p <= 0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)


def test_groups_of_unequal_size_by_hand():
    # Twelve prompts alone and one group of three. Cluster-robust: G / (G - 1) sum of squared sums over n^2.
    values = np.array([0.1, -0.2, 0.3, 0.0, 0.2, -0.1, 0.4, 0.1, -0.3, 0.2, 0.0, 0.5, 0.3, 0.4, 0.5])
    groups = np.array([*range(12), 12, 12, 12])
    mean = values.mean()
    sums = [*(values[:12] - mean), (values[12:] - mean).sum()]
    variance = 13 / 12 * sum(e**2 for e in sums) / 15**2
    # Satterthwaite from the covariance of the sums, written out entry by entry: u_g of a group, less the mean of all.
    h = np.array([1] * 12 + [3]) / 15
    centred = np.diag(h) @ (np.eye(13) - np.outer(np.ones(13), h))
    form = centred.T @ centred
    df = np.trace(form) ** 2 / np.trace(form @ form)
    assert df == pytest.approx(degrees_of_freedom(h))
    t = mean / math.sqrt(variance)
    skewness = stats.skew(sums)
    expected = max(2 * stats.t.sf(abs(x), df) for x in (t, hall(t, skewness, 13)))
    assert mean_interval(values, groups).p_value == pytest.approx(expected)
    assert mean_interval(values[3:], groups[3:]).n == 12
    few = mean_interval(values[6:], groups[6:])
    assert few.reason == "9 measured prompts in 7 groups, an interval needs 10"


def test_a_group_that_outweighs_all_others_leaves_no_interval():
    # 100^2 / (80^2 + 20) = 1.56: half a degree of freedom would give intervals as wide as a thousand ranges.
    values = np.random.default_rng(0).random(100)
    few = mean_interval(values, np.array([0] * 80 + list(range(1, 21))))
    assert (few.value, few.ci_low, few.p_value) == (pytest.approx(values.mean()), None, None)
    expected = "100 measured prompts in 21 groups, the largest so large that they count as 1.6, an interval needs 10"
    assert few.reason == expected
    assert mean_interval(values, np.zeros(100, dtype=int)).reason.startswith("100 measured prompts in 1 group, ")


def test_pairing_uses_the_same_prompts():
    rng = np.random.default_rng(2)
    baseline = rng.normal(0, 10, size=100)
    values = baseline - 0.5 + rng.normal(0, 0.1, size=100)
    estimate = paired_difference(values, baseline)
    assert estimate.ci_low < -0.5 < estimate.ci_high
    assert estimate.ci_high - estimate.ci_low < 0.06
    assert verdict(estimate, "lower") == "better"


def test_unmeasured_prompts_are_left_out():
    rng = np.random.default_rng(3)
    values = rng.normal(size=50)
    holes = np.concatenate([values, [np.nan] * 5])
    estimate, alone = mean_interval(holes), mean_interval(values)
    assert estimate.n == 50
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.ci_low == pytest.approx(alone.ci_low, abs=0.02)
    assert estimate.ci_high == pytest.approx(alone.ci_high, abs=0.02)


def test_mostly_unmeasured_columns_still_give_numbers():
    columns = np.full((400, 2), np.nan)
    columns[:10, 0] = np.arange(10)
    columns[:, 1] = np.arange(400)
    few, many = column_means(columns)
    assert few.value == 4.5
    assert few.ci_low < 4.5 < few.ci_high
    assert many.value == 199.5


def test_same_numbers_every_time_and_whatever_stands_beside():
    rng = np.random.default_rng(4)
    columns = rng.normal(size=(80, 7))
    together, again = column_means(columns), column_means(columns)
    assert together == again
    alone = mean_interval(columns[:, 3])
    assert alone.ci_low == pytest.approx(together[3].ci_low, abs=1e-12)
    assert alone.p_value == together[3].p_value


@pytest.mark.parametrize("groups", [None, np.arange(400) // 3, np.r_[np.zeros(200, int), np.arange(1, 201)]])
def test_many_rows_give_the_numbers_that_each_gives_alone(groups):
    rng = np.random.default_rng(5)
    rows = rng.normal(0.1, 1, (700, 400)) ** 3
    rows[::5] = np.where(rng.random((140, 400)) < 0.1, np.nan, rows[::5])
    rows[1:4] = np.array([[0.0], [0.3], [np.nan]])
    rows[4, 9:] = rows[5, 1:] = np.nan
    assert mean_intervals(rows, groups) == [mean_interval(row, groups) for row in rows]
    variances = variances_of_means(rows, groups)
    assert np.array_equal(variances, [variances_of_means(row[None], groups)[0] for row in rows], equal_nan=True)
    assert n_moved(rows, groups) == [n_moved(row[None], groups)[0] for row in rows]
    # By the formulas, one row at a time.
    each = list(zip(rows, mean_intervals(rows), variances_of_means(rows), strict=True))
    for row, estimate, (variance, _) in each[6:40]:
        measured = row[np.isfinite(row)]
        assert estimate.value == measured.mean()
        assert variance == measured.var(ddof=1) / len(measured)


@pytest.mark.parametrize("n_prompts", [1, 2, 9])
def test_too_few_prompts_prove_nothing(n_prompts):
    estimate = paired_difference(np.full(n_prompts, -1.0) - np.arange(n_prompts), np.zeros(n_prompts))
    assert estimate.value is not None
    assert (estimate.ci_low, estimate.ci_high, estimate.p_value) == (None, None, None)
    assert estimate.reason == f"{n_prompts} measured prompts, an interval needs 10"
    assert verdict(estimate, "lower") == "not tested"


def test_nothing_measured():
    estimate = mean_interval([math.nan] * 20)
    assert estimate == Estimate(None, reason="no prompt was measured")
    assert verdict(estimate, "lower") is None


def test_identical_runs_are_not_distinguishable():
    values = [0.1, 0.2, 0.7] * 10
    estimate = paired_difference(values, values)
    assert (estimate.value, estimate.p_value, estimate.ci_low) == (0.0, 1.0, None)
    assert estimate.reason == "zero on every prompt"
    assert verdict(estimate, "lower") == "not distinguishable"


def test_constant_shift_is_a_sign_test():
    # Every one of 12 prompts went from 0 to 1: two sides of 12 equal signs, 2 / 2^12.
    estimate = paired_difference(np.ones(12), np.zeros(12))
    assert estimate.p_value == pytest.approx(2 / 4096)
    assert estimate.reason == "the same value on every prompt"
    assert verdict(estimate, "lower") == "worse"
    assert paired_difference(np.ones(400), np.zeros(400)).p_value == pytest.approx(2.0**-399)


def test_constant_values_get_a_reason_instead_of_an_interval():
    estimate = mean_interval(np.full(30, 0.3))
    assert estimate.value == pytest.approx(0.3)
    assert (estimate.ci_low, estimate.ci_high) == (None, None)
    assert estimate.reason == "the same value on every prompt"


def test_rounding_error_breaks_no_ties():
    # Five prompts up and five down by the same: P(sum <= 0) = P(sum >= 0) = 0.62, p is 1. In floating point
    # 0.3 - 0.2 and 0.2 - 0.1 differ in the last bit, and p would be 0.75 if such sums counted as positive or negative.
    estimate = paired_difference([0.3, 0.1] * 5, [0.2, 0.2] * 5)
    assert estimate.p_value == 1.0


@pytest.mark.parametrize(
    ("value", "p", "direction", "expected"),
    [
        (-0.1, 0.01, "lower", "better"),
        (0.1, 0.01, "lower", "worse"),
        (0.1, 0.01, "higher", "better"),
        (-0.1, 0.01, "higher", "worse"),
        (-0.1, 0.05, "lower", "better"),
        (-0.1, 0.0502, "lower", "not distinguishable"),
        (-0.1, 0.01, "none", "different"),
        (0.1, 0.2, "none", "not distinguishable"),
        (0.1, None, "lower", "not tested"),
        (None, None, "lower", None),
    ],
)
def test_verdict(value, p, direction, expected):
    assert verdict(Estimate(value, p_value=p), direction) == expected
