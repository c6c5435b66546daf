from __future__ import annotations

import math
import random
import warnings
from itertools import product

import numpy as np
import pytest
from scipy import stats

from alignbench.statistics.bootstrap import mean_interval, paired_difference, resample_means
from alignbench.statistics.estimate import Estimate, verdict


@pytest.fixture(autouse=True)
def _no_numpy_warnings():
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


def slow_bootstrap(values: list[float], n_resamples: int, seed: int) -> list[float]:
    """The textbook loop: draw, average, sort."""
    source = random.Random(seed)
    return sorted(math.fsum(source.choices(values, k=len(values))) / len(values) for _ in range(n_resamples))


def test_interval_of_a_rate_is_the_binomial_quantile():
    # Ten prompts, five of them 1: resampled sums are Binomial(10, 1/2). P(X <= 1) = 11/1024 = 0.011 and
    # P(X <= 2) = 56/1024 = 0.055, so the 2.5 % point is 2, and by symmetry the 97.5 % point is 8.
    estimate = mean_interval([0.0, 1.0] * 5)
    assert (estimate.value, estimate.ci_low, estimate.ci_high, estimate.n) == (0.5, 0.2, 0.8, 10)


def test_p_is_the_share_of_resamples_beyond_zero():
    # Differences +1 four times, -1 once, 0 five times. P(sum of ten draws <= 0), exactly, by convolution.
    chances = {1: 0.4, -1: 0.1, 0: 0.5}
    total = {0: 1.0}
    for _ in range(10):
        step: dict[int, float] = {}
        for (sum_, p), (move, q) in product(total.items(), chances.items()):
            step[sum_ + move] = step.get(sum_ + move, 0.0) + p * q
        total = step
    exact = 2 * sum(p for sum_, p in total.items() if sum_ <= 0)
    estimate = paired_difference([1.0] * 4 + [0.0] * 6, [0.0] * 4 + [1.0] + [0.0] * 5)
    assert estimate.value == pytest.approx(0.3)
    assert estimate.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact / 9999))


def test_against_a_slow_loop_and_scipy():
    rng = np.random.default_rng(5)
    values = rng.lognormal(size=60)
    estimate = mean_interval(values)
    drawn = slow_bootstrap(list(values), 9999, seed=11)
    error = float(np.std(values)) / math.sqrt(60)
    assert estimate.ci_low == pytest.approx(drawn[249], abs=0.05 * error)
    assert estimate.ci_high == pytest.approx(drawn[9749], abs=0.08 * error)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=9999, rng=rng).confidence_interval
    assert estimate.ci_low == pytest.approx(theirs.low, abs=0.05 * error)
    assert estimate.ci_high == pytest.approx(theirs.high, abs=0.08 * error)


def test_interval_and_p_never_contradict_each_other():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(40, 1000)) + np.linspace(0.2, 0.45, 1000)
    estimates = resample_means(columns)
    near = 0
    for one in estimates:
        excludes = one.ci_low > 0 or one.ci_high < 0
        assert excludes == (one.p_value <= 0.05)
        near += 0.04 < one.p_value < 0.06
    assert near > 15  # the property was put to the test where it matters


def test_coverage_and_false_alarms():
    rng = np.random.default_rng(1)
    true = math.exp(0.5 * 0.8**2)
    estimates = resample_means(rng.lognormal(sigma=0.8, size=(200, 2000)) - true)
    covered = np.mean([one.ci_low <= 0 <= one.ci_high for one in estimates])
    assert 0.92 <= covered <= 0.965
    assert 0.035 <= np.mean([one.p_value <= 0.05 for one in estimates]) <= 0.08


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
    few, many = resample_means(columns)
    assert few.value == 4.5
    assert few.ci_low < 4.5 < few.ci_high
    assert many.value == 199.5


def test_same_numbers_every_time_and_whatever_stands_beside():
    rng = np.random.default_rng(4)
    columns = rng.normal(size=(80, 7))
    together, again = resample_means(columns), resample_means(columns)
    assert together == again
    alone = mean_interval(columns[:, 3])
    assert alone.ci_low == pytest.approx(together[3].ci_low, abs=1e-12)
    assert alone.p_value == together[3].p_value


@pytest.mark.parametrize("n_prompts", [1, 2, 9])
def test_too_few_prompts_prove_nothing(n_prompts):
    estimate = paired_difference(np.full(n_prompts, -1.0) - np.arange(n_prompts), np.zeros(n_prompts))
    assert estimate.value is not None
    assert (estimate.ci_low, estimate.ci_high, estimate.p_value) == (None, None, None)
    assert estimate.reason == f"{n_prompts} measured prompts, an interval needs 10"
    assert verdict(estimate, "lower") == "not distinguishable"


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
    # A shift of all 400 prompts is shown no surer than resampling can show anything.
    assert paired_difference(np.ones(400), np.zeros(400)).p_value == pytest.approx(2 / 10_000)


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
        (0.1, None, "lower", "not distinguishable"),
        (None, None, "lower", None),
    ],
)
def test_verdict(value, p, direction, expected):
    assert verdict(Estimate(value, p_value=p), direction) == expected
