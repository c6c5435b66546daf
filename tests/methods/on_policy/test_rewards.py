"""Token rewards and whitening, against numbers worked by hand and a slow oracle in plain Python."""

import math

import numpy as np
import pytest
import torch

from alignbench.methods.on_policy.rewards import (
    RunningMoments,
    completion_penalties,
    masked_mean,
    scaled_rewards,
    token_rewards,
    whiten,
)

MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_reward_stands_on_the_last_real_token_and_the_penalty_on_every_one():
    kl = torch.tensor([[0.5, -1.0, 2.0], [0.25, 1.0, 9.0]])
    rewards = token_rewards(torch.tensor([3.0, -1.0]), kl, MASK, kl_coef=0.2)
    # Row 0: -0.2 * (0.5, -1, 2) and 3 on the last; row 1: its last real token is the second, the padded 9 counts not.
    expected = torch.tensor([[-0.1, 0.2, 2.6], [-0.05, -1.2, 0.0]])
    torch.testing.assert_close(rewards, expected)


def test_token_rewards_sum_to_the_penalised_reward():
    generator = torch.Generator().manual_seed(0)
    kl = torch.randn(2, 3, generator=generator)
    rewards = token_rewards(torch.tensor([3.0, -1.0]), kl, MASK, kl_coef=0.7)
    expected = torch.tensor([3.0, -1.0]) - 0.7 * (kl * MASK).sum(dim=1)
    torch.testing.assert_close(rewards.sum(dim=1), expected)


def test_masked_mean_leaves_padding_out():
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 10.0, 99.0]])
    assert masked_mean(values, MASK).item() == pytest.approx(20 / 5)


def test_whiten_by_hand():
    # Values 1, 2, 3, 4, 10 have mean 4 and biased variance (9 + 4 + 1 + 0 + 36) / 5 = 10; unbiased would be 12.5.
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 10.0, 99.0]])
    centred = whiten(values, MASK, center=True)
    expected = torch.tensor([[-3.0, -2.0, -1.0], [0.0, 6.0, 0.0]]) / math.sqrt(10)
    torch.testing.assert_close(centred, expected)
    kept = whiten(values, MASK, center=False)
    torch.testing.assert_close(kept, (expected + 4.0) * MASK)


def test_whiten_of_equal_values_is_finite():
    assert torch.equal(whiten(torch.full((2, 3), 5.0), MASK, center=True), torch.zeros(2, 3))
    # The mean of five times 0.3 is 0.3 less a bit, which the small variance would multiply by 10,000.
    assert torch.equal(whiten(torch.full((2, 3), 0.3), MASK, center=True), torch.zeros(2, 3))


def test_running_moments_are_those_of_everything_seen():
    """Against numpy on the concatenation, after every batch; a large mean must not eat the digits of the variance."""
    rng = np.random.default_rng(0)
    batches = [1e4 + rng.normal(size=n) for n in (5, 1, 0, 7)]
    moments = RunningMoments()
    for i, batch in enumerate(batches):
        moments.update(torch.from_numpy(batch))
        seen = np.concatenate(batches[: i + 1])
        assert moments.n == len(seen)
        assert moments.mean == pytest.approx(seen.mean(), rel=1e-12)
        assert moments.std == pytest.approx(seen.std(ddof=1), rel=1e-9)


@pytest.mark.parametrize("seen", [[], [3.0], [3.0, 3.0]])
def test_an_unknown_deviation_divides_by_1(seen):
    moments = RunningMoments()
    moments.update(torch.tensor(seen))
    assert moments.std == 1.0


@pytest.mark.parametrize(
    ("scaling", "clip", "expected"),
    [
        ("none", None, [1.0, 2.0, 6.0]),
        ("none", 1.5, [1.0, 1.5, 1.5]),
        ("std", None, [1 / math.sqrt(7), 2 / math.sqrt(7), 6 / math.sqrt(7)]),
        ("mean_std", None, [-2 / math.sqrt(7), -1 / math.sqrt(7), 3 / math.sqrt(7)]),
        ("mean_std", 0.5, [-0.5, -1 / math.sqrt(7), 0.5]),
    ],
)
def test_scaled_rewards_by_hand(scaling, clip, expected):
    # Rewards 1, 2, 6 have mean 3 and sample variance (4 + 1 + 9) / 2 = 7.
    rewards, moments = torch.tensor([1.0, 2.0, 6.0]), RunningMoments()
    moments.update(rewards)
    torch.testing.assert_close(scaled_rewards(rewards, moments, scaling, clip), torch.tensor(expected))


def test_penalties_by_hand():
    n_tokens, is_cut = torch.tensor([3, 5, 5]), torch.tensor([False, True, False])
    penalties = completion_penalties(n_tokens, is_cut, missing_eos_penalty=1.0, length_penalty=0.1)
    torch.testing.assert_close(penalties, torch.tensor([0.3, 1.5, 0.5]))
    torch.testing.assert_close(completion_penalties(n_tokens, is_cut, 0.0, -0.5), torch.tensor([-1.5, -2.5, -2.5]))
