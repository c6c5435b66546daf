from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from fixtures.cases import few_of
from fixtures.method_difference import method_difference
from fixtures.paired import paired_difference
from scipy import integrate, stats

from alignbench.statistics.crossed import Arm, Components, Spread, arm, components, estimate
from alignbench.statistics.estimate import verdict
from alignbench.statistics.power import minimum_detectable_effect


@pytest.fixture(autouse=True)
def _no_numpy_warnings():
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        yield


def draw(rng, seeds, n, seed_sd, prompt_sd=0.0, residual_sd=0.3, shared=0.0):
    """A matrix of the crossed model; `shared` (prompts,) is what both recipes have in common."""
    own = rng.normal(0, prompt_sd, n) if prompt_sd else 0.0
    return rng.normal(0, seed_sd, (seeds, 1)) + shared + own + rng.normal(0, residual_sd, (seeds, n))


def test_spread_of_seeds_by_hand():
    # Means of seeds 2 and 5, sample variance 4.5. Means of prompts 2, 3, 5.5, of all 3.5. Residuals of seed 0:
    # 1 - 2 + 1.5 = 0.5, 2 - 3 + 1.5 = 0.5, 3 - 5.5 + 1.5 = -1, of seed 1 their opposites: sum of squares 3, two
    # degrees of freedom, mean square 1.5, and a third of it stands in the mean of a seed.
    assert arm(np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 8.0]])) == Arm(2, 4.5, 0.5)


def test_components_by_hand():
    # m = 0.09/3 + 0.04/2 = 0.05, r = 0.03/3 + 0.02/2 = 0.02, prompts 0.06 - 0.02,
    # f = 0.05^2 / (0.03^2/1 + 0.02^2/1) = 0.0025 / 0.0013: each has the degrees of freedom of the arm with two seeds.
    parts = components(0.06, 100, [Arm(3, 0.09, 0.03), Arm(2, 0.04, 0.02)])
    assert (parts.prompts, parts.seeds, parts.seeds_residual) == pytest.approx((0.04, 0.05, 0.02))
    assert (parts.seeds_df, parts.n_seeds) == (pytest.approx(0.0025 / 0.0013), 2)
    assert parts.variance == pytest.approx(0.09)
    # Satterthwaite of the whole: 0.09^2 / (0.04^2/99 + 0.05^2/f)
    assert parts.df == pytest.approx(0.0081 / (0.0016 / 99 + 0.0013))


def test_a_side_without_training_has_no_seed_variance():
    parts = components(0.06, 100, [Arm(3, 0.09, 0.03), Arm(2, 0.04, 0.02, varies=False)])
    assert (parts.prompts, parts.seeds, parts.seeds_df) == pytest.approx((0.05, 0.03, 2.0))
    assert components(0.06, 100, [Arm(1, 0.0, 0.0, varies=False)] * 2) == Components(0.06, 100, runs=0.06)


def test_more_prompt_variance_than_residual_is_never_negative():
    assert components(0.01, 100, [Arm(3, 0.09, 0.06)] * 2).prompts == 0.0


def test_expected_mean_squares_by_brute_force():
    # Expectation of a quadratic form: trace of its matrix times the covariance of all values, both written out entry
    # by entry. E[(v - r) + m] must be the variance of the difference, for any components.
    n, seeds = 4, (2, 3)
    cells = [(side, i, j) for side in (0, 1) for i in range(seeds[side]) for j in range(n)]
    seed_var, residual_var = (0.7, 0.2), (1.1, 0.4)
    prompt_covariance = np.array([[0.9, 0.5], [0.5, 0.6]])
    sigma = np.zeros((len(cells), len(cells)))
    for a, (side, i, j) in enumerate(cells):
        for b, (other, k, q) in enumerate(cells):
            sigma[a, b] += seed_var[side] * (side == other and i == k)
            sigma[a, b] += prompt_covariance[side, other] * (j == q)
            sigma[a, b] += residual_var[side] * (a == b)

    def parts(y):
        sides = y[: seeds[0] * n].reshape(seeds[0], n), y[seeds[0] * n :].reshape(seeds[1], n)
        arms = [arm(side) for side in sides]
        v = (sides[0].mean(axis=0) - sides[1].mean(axis=0)).var(ddof=1) / n
        m = sum(one.seeds / one.n_seeds for one in arms)
        return np.array([v, m, sum(one.residual / one.n_seeds for one in arms)])

    unit = np.eye(len(cells))
    alone = [parts(e) for e in unit]
    expected = np.zeros(3)
    for a in range(len(cells)):
        for b in range(len(cells)):
            form = (parts(unit[a] + unit[b]) - alone[a] - alone[b]) / 2
            expected += form * sigma[a, b]
    v, m, r = expected
    contrast = np.array([1 / (seeds[0] * n) if side == 0 else -1 / (seeds[1] * n) for side, _, _ in cells])
    assert (v - r) + m == pytest.approx(contrast @ sigma @ contrast)
    assert m == pytest.approx(sum((s + r_ / n) / k for s, r_, k in zip(seed_var, residual_var, seeds, strict=True)))
    assert r == pytest.approx(sum(r_ / n / k for r_, k in zip(residual_var, seeds, strict=True)))


@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (3, 5), (6, 2)])
def test_without_prompt_noise_it_is_welch_on_the_means_of_seeds(seeds):
    rng = np.random.default_rng(0)
    mine, theirs = rng.normal(0.1, 1.0, (seeds[0], 1)), rng.normal(0, 0.3, (seeds[1], 1))
    one, _ = method_difference(np.tile(mine, 20_000), np.tile(theirs, 20_000))
    welch = stats.ttest_ind(mine[:, 0], theirs[:, 0], equal_var=False)
    if seeds[0] == seeds[1]:
        interval = welch.confidence_interval()
        assert one.p_value == pytest.approx(welch.pvalue, rel=1e-3)
        assert (one.ci_low, one.ci_high) == pytest.approx((interval.low, interval.high), rel=1e-3)
    else:
        # Welch's t, with the degrees of freedom of the smaller side for both.
        parts = mine.var(ddof=1) / seeds[0], theirs.var(ddof=1) / seeds[1]
        df = sum(parts) ** 2 / sum(part**2 for part in parts) * (min(seeds) - 1)
        assert one.p_value == pytest.approx(2 * stats.t.sf(abs(welch.statistic), df), rel=1e-3)


def test_few_prompt_groups_do_not_widen_what_is_all_seeds():
    # Twenty groups of prompts that hardly differ, three seeds that do: t with 2 degrees of freedom, 4.303.
    one = estimate(0.0, Components(1e-8, 20, 1.0, 0.0, 2.0, 3))
    assert one.ci_high == pytest.approx(4.303, rel=1e-3)


def test_without_seed_noise_it_is_the_t_test_over_prompts():
    rng = np.random.default_rng(1)
    half = rng.normal(0, 1, 25)
    mine, theirs = np.concatenate([half, -half])[None] + 0.3, np.zeros((1, 50))  # symmetric: nothing to correct
    one, parts = method_difference(mine, theirs, varies=False, baseline_varies=False)
    test = stats.ttest_1samp((mine - theirs)[0], 0)
    assert one.p_value == pytest.approx(test.pvalue)
    interval = test.confidence_interval()
    assert (one.ci_low, one.ci_high) == pytest.approx((interval.low, interval.high))
    assert parts.seeds == 0


@pytest.mark.parametrize(("difference", "df"), [(0.5, 2.0), (2.0, 2.3), (9.0, 4.0), (0.01, 1.0)])
@pytest.mark.parametrize(("n_seeds", "power"), [(2, 0.0), (3, 1 / 2), (5, 3 / 4)])
def test_p_against_direct_integration(difference, df, n_seeds, power):
    parts = Components(0.04, 60, 0.05, 0.01, df, n_seeds)

    def weight(x):
        return (0.04 * x / (0.05 * df) + 1) ** power * stats.chi2.pdf(x, df)

    def inside(x):
        variance = 0.04 + 0.05 * df / x
        return 2 * stats.t.cdf(-difference / math.sqrt(variance), 59 * (variance / 0.04) ** 2) * weight(x)

    top, bottom = (
        sum(integrate.quad(f, *ends, limit=500)[0] for ends in ((0, 0.01), (0.01, 1), (1, 60)))
        for f in (inside, weight)
    )
    assert estimate(difference, parts).p_value == pytest.approx(top / bottom, rel=1e-3)


def test_with_many_seeds_the_prior_mixes_two_chi_squareds():
    # (v - r + B) / B^2 times the likelihood of m is a mixture of B = m f / x with x of f and of f + 2 degrees of
    # freedom; worked out by hand, their weights are as m to v - r.
    parts = Components(0.3, 1_000_000, 0.1, 0.0, 3.0, 1_000_000)

    def p(df):
        one = Components(0.3, 1_000_000, 0.1 * 3 / df, 0.0, df, 2)
        return Spread.of(one).p_values(np.array([[1.5]]))[0, 0]

    assert Spread.of(parts).p_values(np.array([[1.5]]))[0, 0] == pytest.approx(
        (0.1 * p(3) + 0.3 * p(5)) / 0.4, rel=1e-3
    )


def false_alarms(n_seeds, ratio, alpha):
    """Of a comparison with an untrained baseline, normal and with many prompts; exact but for 400 quantiles of m."""
    df = n_seeds - 1
    m = ratio * stats.chi2.ppf((np.arange(400) + 0.5) / 400, df) / df
    halves = Spread.of(Components(1.0, 1_000_000, ratio, 0.0, df, n_seeds), m).half_widths(alpha)
    return float(np.mean(2 * stats.norm.sf(halves / math.sqrt(1 + ratio))))


@pytest.mark.parametrize("ratio", [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0])
def test_false_alarms_with_one_side_trained_whatever_seeds_weigh_against_prompts(ratio):
    assert 0.035 < false_alarms(3, ratio, 0.05) < 0.055
    assert 0.045 < false_alarms(5, ratio, 0.05) < 0.053
    assert false_alarms(2, ratio, 0.05) < 0.051
    for n_seeds, most in ((2, 0.01), (3, 0.0138), (5, 0.0116), (10, 0.0106)):
        assert false_alarms(n_seeds, ratio, 0.01) < most


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize(("prompts", "seeds", "df"), [(1.0, 0.0, 1), (0.0, 1.0, 2), (1.0, 1.0, 1), (1e-4, 5.0, 4)])
def test_half_width_is_where_p_is_alpha(alpha, prompts, seeds, df):
    spread = Spread.of(Components(prompts, 400, seeds, 0.0, df, 3))
    half = spread.half_widths(alpha)
    assert spread.p_values(half[:, None])[0, 0] == pytest.approx(alpha, rel=1e-6)


def test_interval_and_p_never_contradict_each_other():
    rng = np.random.default_rng(2)
    near = 0
    for _ in range(300):
        one, _ = method_difference(draw(rng, 3, 40, 0.05) + 0.15, draw(rng, 3, 40, 0.05))
        assert (one.ci_low > 0 or one.ci_high < 0) == (one.p_value <= 0.05)
        near += 0.03 < one.p_value < 0.07
    assert near > 15


@pytest.mark.parametrize(
    ("seed_sd", "baseline_varies"),
    few_of(list(itertools.product([0.0, 0.02, 0.1], [True, False])), [(0.0, True), (0.02, False), (0.1, True)]),
)
def test_false_alarms_stay_at_their_level_whatever_the_spread_of_seeds(seed_sd, baseline_varies):
    rng = np.random.default_rng(3)
    alarms, runs_alarms, small = 0, 0, 0
    for _ in range(800):
        shared = rng.normal(0, 0.2, 100)
        mine = draw(rng, 3, 100, seed_sd, 0.05, shared=shared)
        theirs = draw(rng, 3, 100, seed_sd * baseline_varies, 0.05, shared=shared)
        one, _ = method_difference(mine, theirs, baseline_varies=baseline_varies)
        alarms += one.p_value <= 0.05
        small += one.p_value <= 0.01
        d = mine.mean(axis=0) - theirs.mean(axis=0)
        runs_alarms += abs(d.mean()) > 1.98 * d.std(ddof=1) / 10
    assert 0.01 <= alarms / 800 <= 0.065
    assert small / 800 <= 0.02
    if seed_sd == 0.1:
        assert runs_alarms / 800 > 0.3  # what the choice of prompts alone would have called


def test_value_is_that_of_these_runs_and_gaps_are_allowed():
    rng = np.random.default_rng(4)
    mine, theirs = draw(rng, 3, 60, 0.01) - 0.5, draw(rng, 2, 60, 0.01)
    mine[0, :5] = np.nan
    mine[:, 7] = np.nan
    one, _ = method_difference(mine, theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        averaged = np.nanmean(mine, axis=0)
    runs = paired_difference(averaged, theirs.mean(axis=0))
    assert (one.value, one.n) == (pytest.approx(runs.value), 59)
    assert verdict(one, "lower") == "better"


def test_what_cannot_be_tested_says_why():
    rng = np.random.default_rng(5)
    full = draw(rng, 3, 40, 0.1)
    one, parts = method_difference(full[:1], full)
    assert (one.p_value, one.ci_low, parts) == (None, None, None)
    assert one.reason == "a single seed says nothing about other seeds"
    holes = full.copy()
    holes[np.arange(40) % 3, np.arange(40)] = np.nan
    one, _ = method_difference(holes, full)
    assert one.p_value is None
    assert one.reason == "0 prompts were measured with every seed, the spread of seeds needs 10"
    assert method_difference(full[:, :9], full[:, :9])[0].reason == "9 measured prompts, an interval needs 10"
    assert method_difference(full * np.nan, full)[0].reason == "no prompt was measured"


def test_constant_values_give_no_nan():
    same, _ = method_difference(np.full((3, 20), 0.1), np.full((2, 20), 0.1))
    assert (same.value, same.p_value, same.ci_low) == (0.0, 1.0, None)
    moved, _ = method_difference(np.ones((3, 20)), np.zeros((2, 20)))
    assert (moved.value, moved.p_value) == (1.0, pytest.approx(2**-19))
    assert moved.reason == "the same value on every prompt with every seed"
    assert verdict(moved, "lower") == "worse"


def test_seeds_that_tie_by_chance_are_no_surer_than_these_runs():
    # Found in practice: rates of rare events, two seeds each, whose means are equal; prompts differ, seeds seem not to.
    mine, theirs = np.zeros((2, 100)), np.zeros((2, 100))
    mine[0, :6] = mine[1, 3:9] = theirs[0, 20:22] = theirs[1, 21:23] = 1.0
    runs = paired_difference(mine.mean(axis=0), theirs.mean(axis=0))
    one, parts = method_difference(mine, theirs)
    assert parts.seeds == 0.0
    assert (one.p_value, one.ci_low, one.ci_high) == (runs.p_value, runs.ci_low, runs.ci_high)
    assert one.reason is None
    assert minimum_detectable_effect(parts) == pytest.approx(2.8 * parts.of_these_runs.variance**0.5, rel=0.02)


def test_the_method_is_never_surer_than_these_runs():
    rng = np.random.default_rng(6)
    for _ in range(200):
        mine, theirs = (rng.uniform(size=(2, 40)) < 0.1).astype(float), (rng.uniform(size=(3, 40)) < 0.1).astype(float)
        one, _ = method_difference(mine, theirs)
        runs = paired_difference(mine.mean(axis=0), theirs.mean(axis=0))
        assert one.p_value >= runs.p_value
        assert one.ci_high - one.ci_low >= runs.ci_high - runs.ci_low - 1e-12
        assert (one.ci_low > 0 or one.ci_high < 0) == (one.p_value <= 0.05)


def test_groups_of_equal_size_are_their_means():
    rng = np.random.default_rng(7)
    mine, theirs, groups = draw(rng, 3, 80, 0.05), draw(rng, 3, 80, 0.05), np.repeat(np.arange(20), 4)
    (one, parts), (by_hand, theirs_parts) = (
        method_difference(mine, theirs, groups=groups),
        method_difference(mine.reshape(3, 20, 4).mean(axis=2), theirs.reshape(3, 20, 4).mean(axis=2)),
    )
    assert (one.p_value, one.ci_low, one.ci_high) == pytest.approx((by_hand.p_value, by_hand.ci_low, by_hand.ci_high))
    assert parts.variance == pytest.approx(theirs_parts.variance)
    assert (one.n, parts.n_prompts) == (80, pytest.approx(20))
