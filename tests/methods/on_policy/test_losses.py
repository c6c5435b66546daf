"""The clipped losses: every branch by hand, and gradients against finite differences."""

import math

import pytest
import torch

from alignbench.methods.on_policy.losses import (
    entropy,
    pair_loss,
    policy_loss,
    sequence_policy_loss,
    token_weights,
    value_loss,
)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "is_clipped"),
    [
        (1.0, 2.0, -2.0, False),  # untouched
        (1.5, 2.0, -2.4, True),  # good action already 1.2 times likelier: 2 * 1.2
        (0.5, 2.0, -1.0, False),  # good action grown rarer: no clipping, 2 * 0.5
        (1.5, -2.0, 3.0, False),  # bad action grown likelier: no clipping, -2 * 1.5
        (0.5, -2.0, 1.6, True),  # bad action already rare: -2 * 0.8
    ],
)
def test_policy_loss_by_hand(ratio, advantage, loss, is_clipped):
    new, old = torch.tensor([[math.log(ratio) - 1.0]]), torch.tensor([[-1.0]])
    value, clipped = policy_loss(new, old, torch.tensor([[advantage]]), clip_range=0.2)
    assert value.item() == pytest.approx(loss, rel=1e-6)
    assert clipped.item() is is_clipped


@pytest.mark.parametrize(
    ("new", "old", "target", "loss", "is_clipped"),
    [
        (1.1, 1.0, 2.0, 0.5 * 0.9**2, False),  # inside the range: plain
        (1.8, 1.0, 2.0, 0.5 * 0.8**2, True),  # moved too far towards the target: held at 1.2
        (0.5, 1.0, 2.0, 0.5 * 1.5**2, False),  # moved away: the plain error is the larger
    ],
)
def test_value_loss_by_hand(new, old, target, loss, is_clipped):
    value, clipped = value_loss(torch.tensor([new]), torch.tensor([old]), torch.tensor([target]), 0.2)
    assert value.item() == pytest.approx(loss, rel=1e-6)
    assert clipped.item() is is_clipped


@pytest.mark.parametrize("new", [1.1, 1.8, 0.5])
def test_value_loss_that_is_not_clipped(new):
    value, clipped = value_loss(torch.tensor([new]), torch.tensor([1.0]), torch.tensor([2.0]), None)
    assert value.item() == pytest.approx(0.5 * (new - 2.0) ** 2)
    assert clipped.tolist() == [False]


def test_a_clipped_loss_has_no_gradient():
    """Ratio 1.5 and advantage 2; value 1.8 after 1.0 on the way to 2.0."""
    new, value = torch.tensor([math.log(1.5)], requires_grad=True), torch.tensor([1.8], requires_grad=True)
    policy_loss(new, torch.zeros(1), torch.tensor([2.0]), 0.2)[0].sum().backward()
    value_loss(value, torch.tensor([1.0]), torch.tensor([2.0]), 0.2)[0].sum().backward()
    assert new.grad.item() == value.grad.item() == 0.0


def test_gradients_against_finite_differences():
    generator = torch.Generator().manual_seed(2)

    def draw():
        return torch.randn(3, 4, generator=generator, dtype=torch.float64)

    new, old, advantages, returns = draw(), draw(), draw(), draw()
    assert torch.autograd.gradcheck(lambda x: policy_loss(x, old, advantages, 0.2)[0], new.requires_grad_())
    assert torch.autograd.gradcheck(lambda x: value_loss(x, old, returns, 0.2)[0], draw().requires_grad_())
    assert torch.autograd.gradcheck(lambda x: value_loss(x, old, returns, None)[0], draw().requires_grad_())


def test_entropy_by_hand():
    # Probabilities 1/2, 1/4, 1/4: 0.5 ln 2 + 2 * 0.25 ln 4 = 1.5 ln 2.
    assert entropy(torch.tensor([[[0.5, 0.25, 0.25]]]).log()).item() == pytest.approx(1.5 * math.log(2))
    assert entropy(torch.zeros(1, 1, 8)).item() == pytest.approx(math.log(8))


MASK = torch.tensor([[True, True, True], [True, False, False]])
LOSSES = torch.tensor([[1.0, 2.0, 6.0], [5.0, 7.0, 7.0]])


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("tokens", 14 / 4), ("sequences", (3 + 5) / 2), ("token_sums", (9 + 5) / 2), ("constant", (9 + 5) / 2 / 10)],
)
def test_aggregation_by_hand(aggregation, expected):
    weights, divisor = token_weights(MASK, aggregation, longest=10)
    assert ((LOSSES * weights).sum() / divisor).item() == pytest.approx(expected)


@pytest.mark.parametrize("aggregation", ["tokens", "sequences", "token_sums", "constant"])
def test_what_is_not_trained_on_does_not_count(aggregation):
    mask = torch.cat([MASK, torch.zeros(1, 3, dtype=torch.bool)])
    weights, divisor = token_weights(mask, aggregation, longest=10)
    of_two, same = token_weights(MASK, aggregation, longest=10)
    assert divisor == same
    assert torch.equal(weights[:2] * 1.0, of_two * 1.0)
    assert not weights[2].any()


def test_sequence_policy_loss_by_hand():
    """Ratios 2 * 1/4 = 1/2 of two tokens, and 3 of one: -2 * 0.5, not clipped where it is below; -1 * min(3, 1.2)."""
    ratios = torch.tensor([[2.0, 0.25, 9.0], [3.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    advantages = torch.tensor([[2.0], [1.0]]) * mask
    loss, clipped = sequence_policy_loss(ratios.log(), torch.zeros(2, 3), mask, advantages[:, :1], 0.2)
    torch.testing.assert_close((loss * mask).sum(dim=1), torch.tensor([-2 * 0.5, -1.2]))
    assert clipped.tolist() == [[False], [True]]


def test_pair_loss_by_hand():
    """A margin of 2 at beta 0.5: log(1 + 1 / e); a difference from 1 / (2 * 0.5) of 1. No margin: ln 2."""
    margins = torch.tensor([2.0, 0.0])
    expected = torch.tensor([math.log(1 + math.exp(-1)), math.log(2)])
    torch.testing.assert_close(pair_loss(margins, 0.5, "sigmoid"), expected)
    torch.testing.assert_close(pair_loss(margins, 0.5, "ipo"), torch.tensor([1.0, 1.0]))
