"""Token rewards and whitening, against numbers worked by hand and a slow oracle in plain Python."""

import math

import pytest
import torch

from alignbench.ppo.rewards import masked_mean, token_rewards, whiten

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
