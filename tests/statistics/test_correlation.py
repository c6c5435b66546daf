"""Rank correlation against scipy and by hand; what its interval and its p promise."""

import math

import numpy as np
import pytest
from fixtures.cases import few_of
from scipy.stats import spearmanr

from alignbench.statistics.correlation import correlation_limits, correlation_p, rank_correlation


def test_by_hand_and_against_scipy():
    # Ranks 1 2 3 4 and 1 3 2 4: 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15).
    assert rank_correlation(np.array([1.0, 2, 3, 4]), np.array([1.0, 9, 5, 100])) == pytest.approx(0.8)
    generator = np.random.default_rng(0)
    a = generator.integers(0, 5, 50).astype(float)  # with ties
    b = a + generator.normal(size=50) * 3
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_gaps_are_left_out_and_a_constant_has_none():
    a, b = np.array([1.0, 2, np.nan, 3, 4]), np.array([4.0, 3, 2, np.nan, 1])
    assert rank_correlation(a, b) == pytest.approx(-1.0)
    assert rank_correlation(a, np.ones(5)) is None
    assert rank_correlation(np.array([1.0, np.nan]), np.array([1.0, 2.0])) is None


def test_limits_by_hand():
    # Fisher's z of 0.5 is 0.549306; its standard error with 64 rows sqrt(1.06 / 61) = 0.131822.
    low, high = correlation_limits(0.5, 64, 0.05)
    assert (low, high) == pytest.approx((math.tanh(0.549306 - 0.258367), math.tanh(0.549306 + 0.258367)), abs=1e-5)
    assert correlation_p(0.5, 64) == pytest.approx(0.5 * math.erfc(0.549306 / 0.131822 / math.sqrt(2)), rel=1e-4)
    assert correlation_limits(-1.0, 20, 0.05)[1] < -0.99
    assert correlation_p(0.0, 20) == 0.5


@pytest.mark.parametrize(("n", "correlation"), few_of([(24, 0.0), (64, 0.0), (64, -0.4)], [(24, 0.0), (64, -0.4)]))
def test_limits_cover_what_they_promise(n, correlation):
    """Oracle: simulation, the true rank correlation of normal columns being 6 / pi * asin(r / 2)."""
    generator = np.random.default_rng(1)
    true, covered, n_small = 6 / math.pi * math.asin(correlation / 2), 0, 0
    for _ in range(1000):
        a, noise = generator.normal(size=(2, n))
        b = correlation * a + math.sqrt(1 - correlation**2) * noise
        found = rank_correlation(a, np.exp(b))  # ranks do not mind the scale
        low, high = correlation_limits(found, n, 0.05)
        covered += low <= true <= high
        n_small += correlation_p(found, n) < 0.05
    assert 0.93 <= covered / 1000 <= 0.97
    if correlation == 0:
        assert 0.03 <= n_small / 1000 <= 0.07
