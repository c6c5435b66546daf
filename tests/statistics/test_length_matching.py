from __future__ import annotations

import numpy as np
import pytest
from fixtures.cases import few_of

from alignbench.statistics.length_matching import ScoredTexts, length_bins, length_matched

N = 300


def texts(prompts, lengths, *columns):
    return ScoredTexts(
        np.array(prompts), np.array(lengths), np.column_stack([np.array(c, dtype=float) for c in columns])
    )


def world(rng, effect=0.02, shift=0.0, length=14, k=2):
    """A policy that writes shorter than the baseline's 20 tokens; toxicity grows with length, plus a shift."""
    of_prompt = rng.normal(0, 0.1, N)

    def side(mean, extra):
        prompts = np.repeat(np.arange(N), k)
        lengths = np.clip(np.round(rng.normal(mean, 5, N * k)), 1, 48).astype(int)
        return texts(prompts, lengths, effect * lengths + extra + of_prompt[prompts] + rng.normal(0, 0.1, N * k))

    return side(length, shift), side(20, 0.0)


def test_by_hand():
    # Lengths 1, 2 and 3; the policy writes 1 and 2, the baseline 2 (twice as often as in the policy) and 3.
    policy = texts([0, 1, 2, 3], [1, 1, 2, 2], [0.9, 0.7, 0.2, 0.4])
    baseline = texts([0, 1, 2, 3, 3], [2, 2, 3, 3, 2], [0.6, 0.4, 0.1, 0.1, 0.8])
    (found,) = length_matched(policy, baseline)
    assert found.difference.value == pytest.approx(0.3 - 0.6)  # at length 2, the only one in common
    assert found.share == pytest.approx(3 / 5)
    assert (found.difference.ci_low, found.difference.reason) == (None, "4 measured prompts, an interval needs 10")


def test_weights_are_the_baselines():
    policy = texts([0] * 5, [1, 1, 1, 1, 2], [0.5, 0.5, 0.5, 0.5, 0.1])
    baseline = texts([0] * 4, [1, 2, 2, 2], [0.4, 0.5, 0.5, 0.5])
    (found,) = length_matched(policy, baseline)
    assert found.difference.value == pytest.approx((1 * 0.1 + 3 * -0.4) / 4)
    assert found.share == 1.0


def test_agrees_with_a_plain_loop():
    rng = np.random.default_rng(5)
    policy, baseline = world(rng, k=3)
    ends = length_bins(np.concatenate([policy.lengths, baseline.lengths]))

    def by_bin(side):
        bins = {}
        for length, (score,) in zip(side.lengths, side.scores, strict=True):
            bins.setdefault(sum(end < length for end in ends), []).append(score)
        return bins

    mine, theirs = by_bin(policy), by_bin(baseline)
    common = mine.keys() & theirs.keys()
    total = sum(len(theirs[b]) for b in common)
    expected = sum(len(theirs[b]) * (np.mean(mine[b]) - np.mean(theirs[b])) for b in common) / total
    (found,) = length_matched(policy, baseline)
    assert found.difference.value == pytest.approx(expected)
    assert found.share == pytest.approx(total / len(baseline.lengths))


def test_bins():
    assert list(length_bins(np.array([3, 3, 5, 9]))) == [3, 5]  # one per length, the last one open
    many = length_bins(np.repeat(np.arange(100), 3))
    assert len(many) == 19
    assert np.bincount(np.searchsorted(many, np.arange(100))).tolist() == [5] * 20
    assert len(length_bins(np.repeat(np.arange(100), 20))) == 49  # narrower with more data
    assert list(length_bins(np.repeat(np.arange(100), 50))) == list(range(99))  # but no narrower than a length
    assert list(length_bins(np.array([7, 7]))) == []


@pytest.mark.parametrize(
    ("effect", "shift"), few_of([(0.02, 0.0), (0.0, -0.1), (0.02, -0.1)], [(0.02, 0.0), (0.02, -0.1)])
)
def test_known_truths(effect, shift):
    """Length alone: nothing is left. A constant shift: it is found. 30 worlds, intervals of 95 %."""
    covered, values = 0, []
    for seed in range(30):
        policy, baseline = world(np.random.default_rng(seed), effect, shift)
        (found,) = length_matched(policy, baseline)
        covered += found.difference.ci_low <= shift <= found.difference.ci_high
        values.append(found.difference.value)
        assert found.share > 0.85
    assert covered >= 26
    assert np.mean(values) == pytest.approx(shift, abs=0.005)  # a twentieth of what length alone does here


def test_many_completions_do_not_show_what_is_left_within_bins():
    """Uniform lengths that overlap in part: wide bins at the edge of the overlap would leave 0.004 of 0.13."""
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(400), 25)
    sides = []
    for low, high in ((5, 22), (10, 30)):
        lengths = rng.integers(low, high, len(prompts))
        sides.append(texts(prompts, lengths, 0.02 * lengths + rng.normal(0, 0.1, len(prompts))))
    (found,) = length_matched(*sides)
    assert found.difference.ci_low < 0 < found.difference.ci_high
    assert found.difference.ci_high - found.difference.ci_low < 0.01


def test_the_unmatched_difference_is_far_off():
    policy, baseline = world(np.random.default_rng(0))
    assert policy.scores.mean() - baseline.scores.mean() < -0.1


def test_the_width_is_that_of_repetitions():
    values, widths = [], []
    for seed in range(60):
        (found,) = length_matched(*world(np.random.default_rng(100 + seed)))
        values.append(found.difference.value)
        widths.append((found.difference.ci_high - found.difference.ci_low) / 3.92)
    assert np.mean(widths) == pytest.approx(np.std(values), rel=0.3)


def test_columns_stand_alone_and_unscored_completions_are_left_out():
    rng = np.random.default_rng(1)
    policy, baseline = world(rng)
    scores = policy.scores[:, 0].copy()
    holes = scores.copy()
    holes[::7] = np.nan
    two = ScoredTexts(policy.prompts, policy.lengths, np.column_stack([scores, holes]))
    base = ScoredTexts(baseline.prompts, baseline.lengths, np.repeat(baseline.scores, 2, axis=1))
    whole, part = length_matched(two, base)
    (alone,) = length_matched(policy, baseline)
    assert whole == alone
    kept = np.isfinite(holes)
    (without,) = length_matched(ScoredTexts(policy.prompts[kept], policy.lengths[kept], holes[kept, None]), baseline)
    assert part.difference.value == pytest.approx(without.difference.value, abs=0.003)  # bins of all completions


def test_nothing_in_common_and_nothing_at_all(recwarn):
    prompts = list(range(20))
    short, long = texts(prompts, [3] * 20, [0.1] * 20), texts(prompts, [9] * 20, [0.3] * 20)
    (found,) = length_matched(short, long)
    assert (found.difference.value, found.share) == (None, 0.0)
    assert found.difference.reason == "no length is common to both sides"
    unscored = texts(prompts, [3] * 20, [np.nan] * 20)
    assert length_matched(unscored, short)[0].difference.value is None
    (none,) = length_matched(texts([], [], []), short)
    assert none.difference.reason == "one side has no completions"
    (same,) = length_matched(short, texts(prompts, [3] * 20, [0.3] * 20))
    assert (same.difference.value, same.difference.ci_low) == (pytest.approx(-0.2), None)
    assert same.difference.reason == "the same value in every resample"
    assert not recwarn.list


def test_hardly_anything_in_common_has_no_interval():
    prompts = list(range(40))
    policy = texts(prompts, [3] * 39 + [9], [0.1] * 40)
    (found,) = length_matched(policy, texts(prompts, [9] * 40, [0.3] * 40))
    assert found.difference.value == pytest.approx(-0.2)
    assert found.difference.ci_low is None
    assert "too few completions" in found.difference.reason
