from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from fixtures.method_difference import method_difference
from fixtures.paired import paired_difference, paired_jackknife

from alignbench.statistics.differences import CorpusPair, Pair, adjust, compare_corpora, compare_pairs, has_method
from alignbench.statistics.estimate import Estimate, verdict


@pytest.fixture(autouse=True)
def _no_numpy_warnings():
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def corpora(values, noise, rng):
    return [(value, tuple(value + rng.normal(0, noise, 20))) for value in values]


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ((True, 2), (True, 2), True),
        ((True, 3), (True, 1), False),
        ((True, 1), (True, 3), False),
        ((True, 2), (False, 1), True),
        ((False, 1), (True, 2), True),
        ((True, 1), (False, 5), False),
        ((False, 5), (False, 5), False),  # no seed makes another policy: nothing to add to these runs
    ],
)
def test_the_method_needs_two_seeds_of_all_that_varies(mine, theirs, expected):
    assert has_method(*mine, *theirs) == expected


def test_both_estimands_of_one_pair(rng):
    mine, theirs = rng.normal(0, 0.3, (3, 80)) + np.array([[0.1], [0.2], [0.0]]), rng.normal(0, 0.3, (2, 80))
    (one,) = compare_pairs([Pair(mine, theirs)])
    assert one.these_runs == paired_difference(mine.mean(axis=0), theirs.mean(axis=0))
    assert one.difference == one.method == method_difference(mine, theirs)[0]
    (single,) = compare_pairs([Pair(mine[:1], theirs)])
    assert (single.estimand, single.method, single.difference) == ("these runs", None, single.these_runs)
    assert compare_pairs([]) == []


def test_what_settles_it_is_counted_in_prompts_where_they_come_in_groups(rng):
    # 50 texts, four variants each that answer alike: as many texts more as without variants, four times the prompts.
    mine, theirs = rng.normal(0.1, 1, (1, 50)), rng.normal(0, 1, (1, 50))
    (texts,) = compare_pairs([Pair(mine, theirs)])
    (variants,) = compare_pairs([Pair(mine.repeat(4, axis=1), theirs.repeat(4, axis=1))], np.arange(50).repeat(4))
    assert variants.settlement().prompts == 4 * texts.settlement().prompts > 200
    assert variants.detectable() == pytest.approx(texts.detectable())


def test_detectable_over_prompts_alone_is_the_textbook_formula(rng):
    half = rng.normal(0, 1, 200)
    mine, theirs = np.concatenate([half, -half])[None] + 0.05, np.zeros((1, 400))  # symmetric: nothing to correct
    (one,) = compare_pairs([Pair(mine, theirs)])
    error = (mine - theirs).std(ddof=1) / 20
    assert one.detectable() == pytest.approx(2.8016 * error, rel=0.005)
    assert one.settlement().prompts == pytest.approx(400 * (2.8016 * error / one.difference.value) ** 2, rel=0.01)
    (constant,) = compare_pairs([Pair(np.ones((1, 400)), np.zeros((1, 400)))])
    assert (constant.detectable(), constant.settlement()) == (None, None)


def test_corpus_pair_with_one_seed_is_the_jackknife(rng):
    (mine,), (theirs,) = corpora([0.5], 0.01, rng), corpora([0.45], 0.01, rng)
    one = compare_corpora([CorpusPair([mine], [theirs])])[0]
    assert one.difference == paired_jackknife(*mine, *theirs)
    few = compare_corpora([CorpusPair([(0.5, [None] * 11 + [0.5] * 9)], [theirs])])[0]
    assert few.difference.p_value is None
    assert "9 groups" in few.difference.reason


def test_corpus_pair_of_a_mean_is_the_same_as_over_prompts(rng):
    # A mean is a corpus metric too. With one prompt per group both ways must give the same interval.
    mine, theirs = rng.normal(0, 1, (3, 20)) + np.array([[0.5], [0.0], [0.3]]), rng.normal(0, 1, (4, 20))

    def leave_one_out(values):
        return [(float(row.mean()), [float((row.sum() - x) / 19) for x in row]) for row in values]

    corpus = compare_corpora([CorpusPair(leave_one_out(mine), leave_one_out(theirs))])[0].difference
    (over_prompts,) = compare_pairs([Pair(mine, theirs)])
    for name in ("value", "ci_low", "ci_high", "p_value"):
        assert getattr(corpus, name) == pytest.approx(getattr(over_prompts.difference, name), rel=1e-9)


def test_families_are_adjusted_estimand_by_estimand(rng):
    (one,) = compare_pairs([Pair(rng.normal(0, 1, (2, 40)), rng.normal(0, 1, (2, 40)))])
    (single,) = compare_pairs([Pair(rng.normal(0, 1, (1, 40)), rng.normal(0, 1, (1, 40)))])
    family = [
        replace(one, these_runs=Estimate(-1.0, p_value=0.001), method=Estimate(-1.0, p_value=0.03)),
        replace(single, these_runs=Estimate(-1.0, p_value=0.02)),
        replace(single, these_runs=Estimate(None)),
    ]
    first, second, third = adjust(family)
    assert (first.method.p_adjusted, second.these_runs.p_adjusted) == pytest.approx((0.04, 0.04))
    assert first.these_runs.p_adjusted == pytest.approx(0.002)
    assert (third.difference.p_adjusted, first.n_tests) == (None, 2)
    assert verdict(second.difference, "lower") == "better"


def test_gaps_constants_and_single_prompts_never_warn(rng):
    nan = np.full((2, 12), math.nan)
    holes = np.where(rng.uniform(size=(2, 12)) < 0.3, math.nan, 0.5)
    full = rng.normal(0, 1, (2, 12))
    for mine, theirs in ((nan, full), (holes, full), (full, full), (full * 0, full * 0 + 1), (nan, nan)):
        (one,) = adjust(compare_pairs([Pair(mine, theirs)]))
        assert one.difference.p_value is None or 0 <= one.difference.p_value <= 1
        detectable = one.detectable()
        assert detectable is None or math.isfinite(detectable)
    (one,) = compare_pairs([Pair(full[:, :1], full[:, 1:2])])
    assert verdict(one.difference, "lower") == "not tested"


@pytest.mark.parametrize(("n_moved", "p"), [(1, 1.0), (4, 0.125), (5, 0.0625), (7, 2**-6)])
def test_few_prompts_that_differ_prove_little(n_moved, p):
    # A rate of rare texts: 400 prompts, none in the baseline. The sign test is the oracle: 2 * (1/2)^m.
    values, baseline = np.zeros((1, 400)), np.zeros((1, 400))
    values[0, :n_moved] = 1.0
    runs = compare_pairs([Pair(values, baseline)])[0].these_runs
    assert runs.p_value == pytest.approx(p)
    assert (runs.ci_low is None) == (p > 0.05)
    assert (runs.reason is not None) == (p > 0.05)
    three = compare_pairs([Pair(np.tile(values, (3, 1)), np.tile(baseline, (3, 1)), baseline_varies=False)])[0]
    assert three.method is not None
    assert three.method.p_value is not None
    assert three.method.p_value >= p - 1e-12


def test_detectable_reaches_as_far_as_a_skewed_interval(rng):
    # Few prompts fall far and most rise a little: the interval is long towards zero, and so is what could be missed.
    values = -(0.05 - rng.exponential(0.3, 100) * (rng.uniform(size=100) < 0.1))
    (one,) = compare_pairs([Pair(values[None], np.zeros((1, 100)))])
    (mirrored,) = compare_pairs([Pair(-values[None], np.zeros((1, 100)))])
    runs = one.these_runs
    half = max(runs.ci_high - runs.value if runs.value < 0 else runs.value - runs.ci_low, 0)
    plain = values.std(ddof=1) / 10
    assert half > 1.99 * plain
    assert one.detectable() == pytest.approx(mirrored.detectable())
    assert one.detectable() > 1.2 * 2.8 * plain


def test_many_pairs_give_the_numbers_that_each_gives_alone(rng):
    recipes = [rng.normal(shift, 0.2, (seeds, 40)) for shift, seeds in ((0, 3), (0.1, 3), (0.2, 2), (0.3, 1))]
    recipes += [np.where(rng.random((3, 40)) < 0.1, np.nan, recipes[0]), np.full((3, 40), 0.5)]
    for varies, groups in ((True, None), (False, None), (True, np.arange(40) // 3)):
        pairs = [Pair(one, other, True, varies) for one in recipes for other in recipes]
        assert compare_pairs(pairs, groups) == [compare_pairs([pair], groups)[0] for pair in pairs]
    seeds = [[(float(one.mean()), one.tolist()) for one in recipe[:, :20] + 1] for recipe in recipes[:4]]
    sizes = [None, [20] * 20, list(range(1, 21)), [40] * 20]
    corpora = [CorpusPair(one, other, some) for one in seeds for other in seeds for some in sizes]
    assert compare_corpora(corpora) == [compare_corpora([pair])[0] for pair in corpora]
