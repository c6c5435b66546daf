"""Log-probabilities in one pass over the vocabulary against the plain way, values and gradients."""

import math

import pytest
import torch

from alignbench.methods.on_policy.fast.fused import sampled_logprobs
from alignbench.methods.on_policy.rollout import policy_distribution
from alignbench.records import Decoding


def test_by_hand():
    """Odds 1 : 2 : 5; the third word is banned at the first position, which leaves 1 : 2."""
    logits = torch.tensor([[[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]]).log()
    tokens = torch.tensor([[1, 2]])
    assert sampled_logprobs(logits, tokens).exp().flatten().tolist() == pytest.approx([2 / 8, 5 / 8])
    assert sampled_logprobs(logits, tokens, 1.0, 2, 1).exp().flatten().tolist() == pytest.approx([2 / 3, 5 / 8])
    # Temperature 1/2 squares the odds.
    assert sampled_logprobs(logits, tokens, 0.5).exp().flatten().tolist() == pytest.approx([4 / 30, 25 / 30])


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("n_banned", [0, 2, 4])
def test_values_and_gradients(temperature, n_banned):
    """Against log-softmax in float64 of the distribution as it is sampled from."""
    torch.manual_seed(0)
    logits = (3 * torch.randn(3, 4, 11)).requires_grad_()
    tokens = torch.randint(1, 11, (3, 4))
    weights = torch.randn(3, 4)
    ours = sampled_logprobs(logits, tokens, temperature, 0, n_banned)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), logits)
    wide = logits.detach().double().requires_grad_()
    allowed = policy_distribution(wide, Decoding(4, min_new_tokens=n_banned, temperature=temperature), 0).double()
    theirs = allowed.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), wide)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-5)


def test_likely_and_unlikely_tokens_stay_finite():
    logits = torch.tensor([[[200.0, 0.0, -200.0]]], requires_grad=True)
    for token, expected in ((0, 0.0), (1, -200.0), (2, -400.0)):
        value = sampled_logprobs(logits, torch.tensor([[token]]))
        assert value.item() == pytest.approx(expected, abs=1e-5)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert gradient.isfinite().all()


def test_an_end_that_is_nearly_certain_and_banned():
    """What is left after the ban is renormalised without loss of digits."""
    logits = torch.tensor([[[12.0, 0.0, math.log(3)]]])
    found = sampled_logprobs(logits, torch.tensor([[2]]), 1.0, 0, 1)
    assert found.exp().item() == pytest.approx(0.75, rel=1e-3)


def test_bfloat16_logits_are_read_in_float32():
    logits = torch.randn(2, 3, 7).bfloat16().requires_grad_()
    tokens = torch.randint(0, 7, (2, 3))
    found = sampled_logprobs(logits, tokens)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits.float().log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1))
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert gradient.dtype == torch.bfloat16
