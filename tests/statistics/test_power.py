from __future__ import annotations

import math

import numpy as np
import pytest
from fixtures.cases import few_of
from fixtures.method_difference import method_difference
from scipy import stats

from alignbench.statistics.crossed import Arm, Components, components
from alignbench.statistics.estimate import verdict
from alignbench.statistics.power import minimum_detectable_effect, more_prompts, more_seeds, settle, smallest_count


def test_over_prompts_alone_it_is_the_textbook_formula():
    parts = Components(0.02**2, 400)
    assert minimum_detectable_effect(parts) == pytest.approx((1.96 + 0.8416) * 0.02, rel=0.005)
    # Five tests: the two-sided 1 % point is 2.576.
    assert minimum_detectable_effect(parts, 5) == pytest.approx((2.576 + 0.8416) * 0.02, rel=0.005)


def test_with_few_seeds_it_is_the_noncentral_t():
    # All variance between seeds, equal on both sides of 3: Student's t with 4 degrees of freedom. Power 80 % from
    # scipy's noncentral t; 1 / c4(4) = 1 / 0.9400 from a printed table of control charts.
    parts = Components(0.0, 1_000_000, 1.0, 0.0, 4.0, 3)
    critical = stats.t.ppf(0.975, 4)
    grid = np.linspace(2, 6, 4001)
    ideal = grid[np.argmax(1 - stats.nct.cdf(critical, 4, grid) >= 0.8)]
    assert minimum_detectable_effect(parts) == pytest.approx(ideal / 0.9400, rel=0.005)


@pytest.mark.parametrize(
    ("seeds", "seed_sd", "n_tests"),
    few_of([(3, 0.0, 1), (3, 0.05, 1), (5, 0.03, 1), (5, 0.05, 5)], [(3, 0.05, 1), (5, 0.05, 5)]),
)
def test_a_true_effect_of_the_stated_size_is_called_better_in_four_of_five(seeds, seed_sd, n_tests):
    rng = np.random.default_rng(0)

    def differences(effect, n):
        for _ in range(n):
            sides = [rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, 0.3, (seeds, 100)) for _ in "ab"]
            yield method_difference(sides[0] - effect, sides[1])

    stated = float(np.mean([minimum_detectable_effect(parts, n_tests) for _, parts in differences(0, 300)]))
    better = [
        one.p_value <= 0.05 / n_tests and verdict(one, "lower") == "better" for one, _ in differences(stated, 1000)
    ]
    assert 0.75 <= np.mean(better) <= 0.85


def test_what_would_settle_it_grows_with_the_square():
    parts = Components(0.02**2, 400)
    assert settle(parts, 2.8016 * 0.02).prompts == pytest.approx(400, abs=3)
    assert settle(parts, 2.8016 * 0.01).prompts == pytest.approx(1600, abs=5)
    assert settle(parts, 0.02).seeds is None
    assert settle(parts, 0.0).prompts is None


def test_more_prompts_cannot_settle_what_seeds_differ_in():
    # Two arms of three seeds: 0.03^2 between their means, 0.01^2 of it residual.
    parts = components(0.01**2 + 0.01**2, 400, [Arm(3, 1.5 * 0.03**2, 1.5 * 0.01**2)] * 2)
    needed = settle(parts, 0.03)
    assert needed.prompts is None
    assert needed.seeds is not None
    assert minimum_detectable_effect(more_seeds(parts, needed.seeds)) == pytest.approx(0.03, rel=0.05)
    # And the other way round: prompts alone, whatever the seeds, are too noisy for a difference this small.
    assert settle(components(0.03**2, 400, [Arm(3, 1.5 * 0.01**2, 0.0)] * 2), 0.03).seeds is None


@pytest.mark.parametrize("power", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_the_smallest_count_in_few_tries(floor, power):
    tried = []

    def detectable(count):
        tried.append(count)
        return math.sqrt(floor + 30 / count**power)

    for target in (0.4, 0.709, 0.75, 1.0, 2.0, 3.0, 6.0, 100.0):
        enough = (count for count in range(2, 10_001) if math.sqrt(floor + 30 / count**power) <= target)
        tried.clear()
        assert smallest_count(detectable, target, 10_000) == next(enough, None)
        assert len(tried) <= 14
    assert smallest_count(lambda count: math.inf if count < 7 else 0.0, 0.0, 1_000_000) == 7


def test_residual_falls_with_prompts_and_with_seeds():
    parts = components(5.0, 100, [Arm(3, 4.5, 1.5)] * 2)
    assert (parts.prompts, parts.seeds, parts.seeds_residual, parts.seeds_df) == (4.0, 3.0, 1.0, 4.0)
    bigger = more_prompts(parts, 400)
    assert (bigger.prompts, bigger.seeds, bigger.seeds_residual) == (1.0, 2.25, 0.25)
    twice = more_seeds(parts, 6)
    assert (twice.prompts, twice.seeds, twice.seeds_df) == (4.0, 1.5, 10.0)
    assert (bigger.runs, twice.runs) == (1.25, 4.5)


def test_unequal_seeds_are_planned_as_equal_ones():
    # Two seeds of variance 2 and eight of variance 8, residuals 0: with four each it is 2/4 + 8/4, and f = 3 (2 + 8)^2
    # / (2^2 + 8^2).
    parts = components(1.0, 100, [Arm(2, 2.0, 0.0), Arm(8, 8.0, 0.0)])
    four = more_seeds(parts, 4)
    assert (four.seeds, four.seeds_df) == (2.5, pytest.approx(3 * 100 / 68))


def test_detectable_is_that_of_these_runs_where_they_need_more():
    # Seeds that agree by luck leave no variance for the method; the runs still have theirs.
    parts = components(0.02**2, 400, [Arm(2, 0.0, 0.02**2)] * 2)
    assert parts.variance == 0.0
    assert minimum_detectable_effect(parts) == pytest.approx((1.96 + 0.8416) * 0.02, rel=0.005)


def test_no_variance_at_all():
    assert minimum_detectable_effect(Components(0.0, 100)) == 0.0
    assert math.isfinite(minimum_detectable_effect(Components(1e-30, 100, 1e-30, 0.0, 1.0, 2)))
