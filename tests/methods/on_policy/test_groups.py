"""Advantages within groups: by hand, and what must hold of any rewards."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from alignbench.methods.on_policy.advantages import rewards_to_go
from alignbench.methods.on_policy.groups import best_and_worst, centred, is_dead, leave_one_out, standardised

# Rewards 1, 2, 6: mean 3; the mean of the others is 4, 3.5 and 1.5; sample variance (4 + 1 + 9) / 2 = 7.
REWARDS, ALL = torch.tensor([[1.0, 2.0, 6.0]]), torch.ones(1, 3, dtype=torch.bool)
SOME = torch.tensor([[True, False, True]])


def test_by_hand():
    torch.testing.assert_close(centred(REWARDS, ALL), torch.tensor([[-2.0, -1.0, 3.0]]))
    torch.testing.assert_close(leave_one_out(REWARDS, ALL), torch.tensor([[-3.0, -1.5, 4.5]]))
    expected = torch.tensor([[-2.0, -1.0, 3.0]]) / (7**0.5 + 1e-4)
    torch.testing.assert_close(standardised(REWARDS, ALL), expected)
    assert [one.tolist() for one in best_and_worst(REWARDS, ALL)] == [[2], [0], [True]]


def test_an_unscored_completion_is_as_if_it_were_not_there():
    """Of 1 and 6 alone: mean 3.5, the other one is 5 away, sample standard deviation 5 / sqrt(2)."""
    torch.testing.assert_close(centred(REWARDS, SOME), torch.tensor([[-2.5, 0.0, 2.5]]))
    torch.testing.assert_close(leave_one_out(REWARDS, SOME), torch.tensor([[-5.0, 0.0, 5.0]]))
    torch.testing.assert_close(standardised(REWARDS, SOME), torch.tensor([[-2.5, 0.0, 2.5]]) / (5 / 2**0.5 + 1e-4))
    high = torch.tensor([[1.0, 9.0, 6.0]])
    assert [one.tolist() for one in best_and_worst(high, SOME)] == [[2], [0], [True]]


@pytest.mark.parametrize("scored", [[[False] * 3], [[True, False, False]], [[True] * 3]])
def test_a_group_of_equal_rewards_is_worth_exactly_nothing(scored):
    """0.1 three times is 0.3 and a bit, whose third is not 0.1."""
    rewards, scored = torch.full((1, 3), 0.1), torch.tensor(scored)
    assert is_dead(rewards, scored).all()
    for advantages in (centred, leave_one_out, standardised):
        assert advantages(rewards, scored).tolist() == [[0.0] * 3]
    assert not best_and_worst(rewards, scored)[2].any()


@given(st.lists(st.integers(-8, 8), min_size=2, max_size=6).filter(lambda values: len(set(values)) > 1))
def test_properties(values):
    rewards, k = torch.tensor([values], dtype=torch.float64), len(values)
    scored = torch.ones_like(rewards, dtype=torch.bool)
    rloo, grpo = leave_one_out(rewards, scored), standardised(rewards, scored)
    assert rloo.sum().item() == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(rloo, k / (k - 1) * (rewards - rewards.mean()))
    std = rewards.std().item()
    assert grpo.mean().item() == pytest.approx(0, abs=1e-9)
    assert grpo.std().item() == pytest.approx(std / (std + 1e-4))
    torch.testing.assert_close(centred(rewards, scored), rewards - rewards.mean())


def test_rewards_to_go_by_hand():
    rewards = torch.tensor([[-1.0, -2.0, 5.0], [3.0, 0.0, 0.0]])
    torch.testing.assert_close(rewards_to_go(rewards), torch.tensor([[2.0, 3.0, 5.0], [3.0, 0.0, 0.0]]))
