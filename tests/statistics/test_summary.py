from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from alignbench.statistics import from_summary
from alignbench.statistics.crossed import Components
from alignbench.statistics.estimate import verdict
from alignbench.statistics.power import settle

# Before and after detoxification: mean and std of 400 completions each, TRL, docs/source/detoxifying_a_lm.md (2023).
PUBLISHED = {
    "gpt-neo-125m": ((0.1627, 0.2997), (0.1148, 0.2506)),
    "gpt-neo-2.7b": ((0.1884, 0.3178), (0.0916, 0.2104)),
    "gpt-j-6b": ((0.1699, 0.3033), (0.1510, 0.2798)),
}


@pytest.mark.parametrize(
    ("model", "p", "word"),
    [
        ("gpt-neo-125m", 0.014, "better"),
        ("gpt-neo-2.7b", 5e-7, "better"),
        ("gpt-j-6b", 0.36, "not distinguishable"),
    ],
)
def test_the_published_table(model, p, word):
    before, after = PUBLISHED[model]
    difference = from_summary(*after, 400).minus(from_summary(*before, 400))
    assert difference.p_value == pytest.approx(p, rel=0.04)
    assert verdict(difference, "lower") == word


def test_how_many_prompts_the_published_table_would_have_needed():
    # (1.96 + 0.8416)^2 (0.3033^2 + 0.2798^2) / 0.0189^2 = 3741
    parts = Components((0.3033**2 + 0.2798**2) / 400, 400)
    assert settle(parts, 0.0189).prompts == pytest.approx(3741, abs=5)


def test_against_scipy_from_values():
    rng = np.random.default_rng(0)
    mine, theirs = rng.normal(1, 2, 30), rng.normal(0, 5, 12)
    test = stats.ttest_ind(mine, theirs, equal_var=False)
    interval = test.confidence_interval()
    for ddof in (0, 1):
        cells = [from_summary(x.mean(), x.std(ddof=ddof), len(x), ddof=ddof) for x in (mine, theirs)]
        one = cells[0].minus(cells[1])
        assert one.p_value == pytest.approx(test.pvalue)
        assert (one.ci_low, one.ci_high) == pytest.approx((interval.low, interval.high))
    alone = stats.ttest_1samp(mine, 0).confidence_interval()
    own = from_summary(mine.mean(), mine.std(), 30).estimate()
    assert (own.ci_low, own.ci_high) == pytest.approx((alone.low, alone.high))


def test_no_spread_is_no_proof():
    one = from_summary(0.5, 0.0, 10).minus(from_summary(0.1, 0.0, 10))
    assert (one.p_value, one.reason) == (None, "no spread was reported")
    assert verdict(one, "lower") == "not tested"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mean": 0.1, "std": 0.1, "n": 1}, "n: got 1, expected at least 2"),
        ({"mean": 0.1, "std": -0.1, "n": 10}, "no negative std"),
        ({"mean": float("nan"), "std": 0.1, "n": 10}, "finite"),
        ({"mean": 0.1, "std": 0.1, "n": 10, "ddof": 2}, "ddof: got 2"),
    ],
)
def test_numbers_that_no_values_have(arguments, said):
    with pytest.raises(ValueError, match=said):
        from_summary(**arguments)
