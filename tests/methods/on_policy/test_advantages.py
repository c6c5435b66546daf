"""Generalised advantages, against a hand calculation and the definition summed up term by term in float64."""

import pytest
import torch

from alignbench.methods.on_policy.advantages import generalised_advantages


def by_definition(rewards, values, n_tokens, gamma, gae_lambda):
    """A_t = sum_l (gamma * lambda)^l delta_{t+l}: equation 16 of Schulman et al. 2015, for one row, in plain Python."""
    values = [*values[:n_tokens], 0.0]
    deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(n_tokens)]
    return [
        sum((gamma * gae_lambda) ** (later - t) * deltas[later] for later in range(t, n_tokens))
        for t in range(n_tokens)
    ]


def test_by_hand():
    # gamma 0.5, lambda 0.8, one row of three tokens with rewards 1, 0, 2 and values 0.5, 1, 1.5.
    # deltas: 1 + 0.5 * 1 - 0.5 = 1;  0 + 0.5 * 1.5 - 1 = -0.25;  2 + 0 - 1.5 = 0.5
    # A_3 = 0.5;  A_2 = -0.25 + 0.4 * 0.5 = -0.05;  A_1 = 1 + 0.4 * -0.05 = 0.98
    advantages, returns = generalised_advantages(
        torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.5, 1.0, 1.5]]), torch.ones(1, 3, dtype=torch.bool), 0.5, 0.8
    )
    torch.testing.assert_close(advantages, torch.tensor([[0.98, -0.05, 0.5]]))
    torch.testing.assert_close(returns, torch.tensor([[1.48, 0.95, 2.0]]))


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_against_the_definition(gamma, gae_lambda):
    generator = torch.Generator().manual_seed(1)
    rewards = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    values = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    lengths = [6, 1, 3, 5]
    mask = torch.arange(6) < torch.tensor(lengths).unsqueeze(1)
    advantages, returns = generalised_advantages(rewards * mask, values, mask, gamma, gae_lambda)
    for row, n in enumerate(lengths):
        expected = by_definition(rewards[row].tolist(), values[row].tolist(), n, gamma, gae_lambda)
        assert advantages[row, :n].tolist() == pytest.approx(expected)
        assert returns[row, :n].tolist() == pytest.approx((torch.tensor(expected) + values[row, :n]).tolist(), rel=1e-6)
    assert not advantages[~mask].any()
    assert not returns[~mask].any()


def test_lambda_1_gives_the_reward_to_come():
    rewards = torch.tensor([[0.0, 0.0, 3.0]])
    _, returns = generalised_advantages(
        rewards, torch.tensor([[9.0, -4.0, 2.0]]), torch.ones(1, 3, dtype=torch.bool), 1.0, 1.0
    )
    torch.testing.assert_close(returns, torch.full((1, 3), 3.0))


def test_padding_does_not_matter():
    rewards, values = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.3, 0.4]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    short, _ = generalised_advantages(rewards, values, mask, 1.0, 0.95)
    padded, _ = generalised_advantages(
        torch.tensor([[1.0, 2.0, 0.0]]),
        torch.tensor([[0.3, 0.4, 77.0]]),
        torch.tensor([[True, True, False]]),
        1.0,
        0.95,
    )
    assert torch.equal(short, padded[:, :2])
