"""Ranges of ranks: by hand, beside closed testing written out, and over simulated tables."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from alignbench.comparison.pooling import Measurement, PairedRecipes
from alignbench.comparison.ranks import RankRange, headline, named_metric, ranking
from alignbench.errors import UsageError
from alignbench.records import MetricKey
from alignbench.statistics.differences import Pair, Tested, adjust, compare_pairs
from alignbench.statistics.estimate import Estimate
from alignbench.statistics.multiplicity import holm

KEY = MetricKey("toxicity_mean", "judge")


def measured(value, difference=None, direction="lower"):
    return Measurement(Estimate(value), difference, direction, 10, 0)


def paired(recipe, other, value, p, adjusted, direction="lower"):
    difference = Estimate(value, value - 0.1, value + 0.1, 10, p, p_adjusted=adjusted)
    return PairedRecipes(recipe, other, KEY, measured(0.0, difference, direction))


def test_by_hand():
    # a < b, a < d and b < d are shown; c is told apart from nobody.
    pairs = [
        paired("b", "a", 0.2, 0.001, 0.006),
        paired("c", "a", 0.2, 0.02, 0.06),
        paired("c", "b", 0.05, 0.5, 0.5),
        paired("d", "a", 0.4, 0.001, 0.006),
        paired("d", "b", 0.2, 0.002, 0.008),
        paired("d", "c", 0.2, 0.03, 0.06),
    ]
    values = {"a": 0.1, "b": 0.3, "c": 0.3, "d": 0.5}
    found = ranking(KEY, {name: measured(value) for name, value in values.items()}, pairs)
    assert found.order == ("a", "b", "c", "d")
    assert {name: str(one) for name, one in found.ranges.items()} == {"a": "1-2", "b": "2-3", "c": "1-4", "d": "3-4"}
    assert found.ranges["a"] == RankRange(1, 2)
    assert found.n_shown == 3
    assert found.verdict("a", "b") == "better"
    assert found.verdict("b", "a") == "worse"
    assert found.verdict("c", "a") == found.verdict("a", "c") == "not distinguishable"
    assert found.verdict("a", "nobody") is None
    turned = found.difference("a", "b")
    assert (turned.value, turned.ci_low, turned.ci_high) == pytest.approx((-0.2, -0.3, -0.1))
    assert (turned.p_value, turned.p_adjusted) == (0.001, 0.006)
    assert {(one.recipe, one.other) for one in found.lost_to_adjustment} == {("c", "a"), ("d", "c")}


@pytest.mark.parametrize(("direction", "order"), [("lower", "ab"), ("higher", "ba"), ("none", "ab")])
def test_directions(direction, order):
    word = {"lower": "worse", "higher": "better", "none": "different"}[direction]
    values = {"b": measured(0.6, direction=direction), "a": measured(0.4, direction=direction)}
    found = ranking(KEY, values, [paired("b", "a", 0.2, 0.01, 0.01, direction)])
    assert "".join(found.order) == order
    assert found.verdict("b", "a") == word
    assert [str(found.ranges[name]) for name in order] == ["1", "2"]


def test_rows_without_a_value_may_have_any_rank():
    pairs = [paired("b", "a", 0.2, 0.01, 0.01)]
    found = ranking(KEY, {"c": None, "b": measured(0.3), "a": measured(0.1)}, pairs)
    assert found.order == ("a", "b", "c")
    assert {name: str(one) for name, one in found.ranges.items()} == {"a": "1-2", "b": "2-3", "c": "1-3"}


def test_holm_is_closed_testing_by_bonferroni():
    """A hypothesis is rejected where Bonferroni rejects every intersection that it is part of, each written out."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.beta(0.3, 3, 7).tolist()
        closed = [0.0] * 7
        for size in range(1, 8):
            for chosen in combinations(range(7), size):
                least = min(1.0, size * min(p[i] for i in chosen))
                for i in chosen:
                    closed[i] = max(closed[i], least)
        assert holm(p) == pytest.approx(closed, rel=1e-12)


def covers(values, truth, varies):
    """True where every range holds the ranks that a row may be given by the true means, equal ones in any order."""
    names = [f"r{i}" for i in range(len(values))]
    pairs = [(i, j) for i in range(len(values)) for j in range(i)]
    tests: list[Tested] = adjust(compare_pairs([Pair(values[i], values[j], varies, varies) for i, j in pairs]))
    found = ranking(
        KEY,
        {name: measured(float(one.mean())) for name, one in zip(names, values, strict=True)},
        [
            PairedRecipes(names[i], names[j], KEY, measured(0.0, one.difference))
            for (i, j), one in zip(pairs, tests, strict=True)
        ],
    )
    return all(
        found.ranges[name].first <= 1 + (truth < mean).sum()
        and found.ranges[name].last >= len(truth) - (truth > mean).sum()
        for name, mean in zip(names, truth, strict=True)
    )


def simulated(rng, truth, n_seeds, n_prompts, seeds_vary):
    """Recipes with common prompts, two of them with a further effect of prompts in common, and seeds of their own."""
    prompts = rng.normal(0, 0.2, n_prompts)
    family = rng.normal(0, 0.1, (2, n_prompts))
    return [
        mean
        + prompts
        + family[i % 2]
        + rng.normal(0, seeds_vary, (n_seeds, 1))
        + rng.normal(0, 0.1, (n_seeds, n_prompts))
        for i, mean in enumerate(truth)
    ]


def coverage(n, n_seeds, seeds_vary, seed):
    rng, truth = np.random.default_rng(seed), np.array([0.0, 0.0, 0.0, 0.03, 0.03, 0.2])
    tables = (simulated(rng, truth, n_seeds, 50, seeds_vary) for _ in range(n))
    return np.mean([covers(values, truth, n_seeds > 1) for values in tables])


def test_ranges_hold_the_true_ranks_of_correlated_recipes():
    assert coverage(200, 1, 0.0, 1) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("n_seeds", "seeds_vary"), [(1, 0.0), (2, 0.02), (3, 0.05), (10, 0.05)])
def test_ranges_hold_the_true_ranks_in_many_tables(n_seeds, seeds_vary):
    assert coverage(1000, n_seeds, seeds_vary, 2) >= 0.95


def test_what_a_table_is_about():
    keys = [MetricKey("toxicity_mean", name) for name in ("reward", "words", "judge")] + [MetricKey("kl")]
    assert headline(keys, None) == keys[1]
    assert headline(keys, None, {"words"}) == keys[2]
    assert headline(keys[:1], None) == keys[0]
    assert headline(keys[:2], None, {"words"}) == keys[1]
    assert headline(keys[3:], None) is None
    assert headline(keys, "kl") == keys[3]
    assert headline(keys, "toxicity_mean@reward") == keys[0]
    with pytest.raises(UsageError, match=r"--metric: got 'kll', expected one of .*did you mean 'kl'\? \(toxicity_mean"):
        headline(keys, "kll")
    with pytest.raises(UsageError, match=r"--at: toxicity_mean was taken over several scorers; write one of toxi"):
        named_metric(keys, "toxicity_mean", "--at")
