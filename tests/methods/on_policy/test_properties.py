"""Properties of the pure functions over shapes, masks, paddings and precisions (hypothesis)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignbench.methods.on_policy.advantages import generalised_advantages
from alignbench.methods.on_policy.kl import KLController, exact_kl, k2, k3
from alignbench.methods.on_policy.losses import policy_loss, value_loss
from alignbench.methods.on_policy.rewards import RunningMoments, masked_mean, token_rewards, whiten
from alignbench.methods.on_policy.rollout import truncation
from alignbench.methods.on_policy.schedule import learning_rate_factor
from alignbench.models.forward import token_logprobs
from alignbench.records import Decoding

TOLERANCES = {torch.float32: {"rtol": 1e-4, "atol": 1e-4}, torch.float64: {"rtol": 1e-9, "atol": 1e-9}}
UNIT = st.floats(0, 1)


def property_test(*strategies, **named):
    """Runs a test on 60 cases, the same ones every time."""

    def decorate(function):
        return settings(derandomize=True, max_examples=60, deadline=None)(given(*strategies, **named)(function))

    return decorate


class Case:
    """Completions of different lengths, the same ones with padding of any content, and a source of numbers."""

    def __init__(self, lengths, more_columns, more_rows, dtype, seed):
        self.generator, self.dtype, self.tolerance = torch.Generator().manual_seed(seed), dtype, TOLERANCES[dtype]
        self.lengths, self.more_columns, self.more_rows = lengths, more_columns, more_rows
        self.shape = (len(lengths), max(lengths))
        self.mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
        self.padded_mask = self.padded(self.mask, fill=False)

    def draw(self, *shape, scale=2.0):
        return scale * torch.randn(shape or self.shape, generator=self.generator, dtype=self.dtype)

    def padded(self, values, fill=None):
        """The same values (b, t) with other content where the mask is False, more columns and more masked rows."""
        b, t = self.shape
        whole = self.draw(b + self.more_rows, t + self.more_columns, scale=5.0)
        if fill is not None:
            whole = torch.full_like(whole, fill, dtype=values.dtype)
        whole[:b, :t] = torch.where(self.mask, values, whole[:b, :t])
        return whole

    def equal(self, found, expected):
        torch.testing.assert_close(found, expected, check_dtype=False, **self.tolerance)

    def equal_and_0_in_padding(self, found, expected):
        b, t = self.shape
        self.equal(found[:b, :t], expected)
        assert not found[~self.padded_mask].any()


def cases(most_rows=2):
    return st.builds(
        Case,
        lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
        more_columns=st.integers(0, 3),
        more_rows=st.integers(0, most_rows),
        dtype=st.sampled_from([torch.float32, torch.float64]),
        seed=st.integers(0, 2**32),
    )


@property_test(cases(most_rows=0), st.floats(0, 5))
def test_token_rewards(case, kl_coef):
    """Padding does not matter; their sum is the completion's reward less kl_coef * KL."""
    rewards, kl = case.draw(len(case.lengths)), case.draw()
    found = token_rewards(rewards, kl, case.mask, kl_coef)
    case.equal(found.sum(dim=1), rewards - kl_coef * (kl * case.mask).sum(dim=1))
    case.equal_and_0_in_padding(token_rewards(rewards, case.padded(kl), case.padded_mask, kl_coef), found)
    without_the_last = case.mask & (torch.arange(case.shape[1]) < case.mask.sum(dim=1, keepdim=True) - 1)
    case.equal(found[without_the_last], (-kl_coef * kl)[without_the_last])


@property_test(cases(), st.booleans())
def test_means_and_whitening(case, center):
    """Padding does not matter; whitened values have variance 1, and mean 0 or the mean that they had."""
    values = case.draw() + 3.0
    mean = values[case.mask].mean()
    case.equal(masked_mean(values, case.mask), mean)
    case.equal(masked_mean(case.padded(values), case.padded_mask), mean)
    found = whiten(values, case.mask, center=center)
    case.equal_and_0_in_padding(whiten(case.padded(values), case.padded_mask, center=center), found)
    real = found[case.mask]
    case.equal(real.mean(), torch.zeros(()) if center else mean)
    if values[case.mask].std(correction=0) > 0.1:
        assert real.std(correction=0).item() == pytest.approx(1.0, rel=1e-3)
        assert torch.equal(real.argsort(), values[case.mask].argsort())


@property_test(cases(), UNIT, UNIT)
def test_advantages_and_padding(case, gamma, gae_lambda):
    rewards, values = case.draw() * case.mask, case.draw()
    advantages, returns = generalised_advantages(rewards, values, case.mask, gamma, gae_lambda)
    case.equal(returns, advantages + values * case.mask)
    padded = case.padded(rewards, fill=0.0), case.padded(values), case.padded_mask
    for found, expected in zip(generalised_advantages(*padded, gamma, gae_lambda), (advantages, returns), strict=True):
        case.equal_and_0_in_padding(found, expected)


@property_test(cases(), UNIT)
def test_advantages_at_both_ends_of_lambda(case, gamma):
    """Lambda 1: the discounted return less the value. Lambda 0: one step of temporal difference."""
    rewards, values = case.draw() * case.mask, case.draw() * case.mask
    monte_carlo, _ = generalised_advantages(rewards, values, case.mask, gamma, 1.0)
    one_step, _ = generalised_advantages(rewards, values, case.mask, gamma, 0.0)
    for row, n in enumerate(case.lengths):
        for t in range(n):
            to_come = sum(gamma ** (later - t) * rewards[row, later].item() for later in range(t, n))
            following = values[row, t + 1].item() if t + 1 < n else 0.0
            at = rewards[row, t].item() + gamma * following
            assert monte_carlo[row, t].item() == pytest.approx(to_come - values[row, t].item(), rel=1e-3, abs=1e-4)
            assert one_step[row, t].item() == pytest.approx(at - values[row, t].item(), rel=1e-3, abs=1e-4)


@property_test(cases(), st.floats(0.01, 0.5))
def test_policy_loss(case, clip_range):
    """Minus the advantage at ratio 1; never less than the plain loss, nor than clipping lets it fall to."""
    new, old, advantages = case.draw(scale=0.3), case.draw(scale=0.3), case.draw()
    loss, clipped = policy_loss(old, old, advantages, clip_range)
    case.equal(loss, -advantages)
    assert not clipped.any()
    loss, clipped = policy_loss(new, old, advantages, clip_range)
    plain, floor = -advantages * (new - old).exp(), -advantages - clip_range * advantages.abs()
    assert (loss >= plain - 1e-5).all()
    assert (loss >= floor - 1e-5).all()
    assert torch.equal(clipped, loss > plain)
    padded = policy_loss(case.padded(new), case.padded(new), case.padded(advantages), clip_range)[0]
    case.equal(masked_mean(padded, case.padded_mask), -masked_mean(advantages, case.mask))


@property_test(cases(), st.floats(0.01, 1.0))
def test_value_loss(case, value_clip_range):
    """Half the squared error without clipping; never less with it, and the same near the old value."""
    new, old, returns = case.draw(), case.draw(), case.draw()
    squared = 0.5 * (new - returns) ** 2
    case.equal(value_loss(new, old, returns, None)[0], squared)
    loss, clipped = value_loss(new, old, returns, value_clip_range)
    assert (loss >= squared - 1e-5).all()
    near = (new - old).abs() < value_clip_range
    case.equal(loss[near], squared[near])
    assert not clipped[near].any()
    padded = value_loss(case.padded(new), case.padded(old), case.padded(returns), value_clip_range)[0]
    case.equal(masked_mean(padded, case.padded_mask), masked_mean(loss, case.mask))


@property_test(cases(), st.integers(2, 9))
def test_kl_is_never_negative(case, n_words):
    logits, reference = case.draw(*case.shape, n_words), case.draw(*case.shape, n_words)
    kl = exact_kl(logits, reference)
    assert (kl >= -1e-6).all()
    case.equal(exact_kl(logits, logits + 3.0), torch.zeros(case.shape))
    case.equal(exact_kl(logits + 2.0, reference - 1.0), kl)
    for estimator in (k2, k3):
        assert (estimator(logits, reference) >= 0).all()
        assert not estimator(logits, logits).any()
    probabilities = logits.softmax(-1)
    expected = (probabilities * k3(logits.log_softmax(-1), reference.log_softmax(-1))).sum(-1)
    case.equal(expected, kl)


@property_test(cases(), st.integers(2, 9), st.integers(0, 10), st.floats(0.05, 1))
def test_probabilities_of_what_was_sampled(case, n_words, top_k, top_p):
    """Those of the support add up to 1, and none is less likely than without truncation."""
    logits, case.tolerance = case.draw(*case.shape, n_words), TOLERANCES[torch.float32]  # as they always are
    drawn = torch.randint(n_words, case.shape, generator=case.generator)
    support = truncation(logits, Decoding(max_new_tokens=9, top_k=top_k, top_p=top_p))
    whole = logits.log_softmax(-1)
    if support is None:
        assert top_p == 1
        assert top_k == 0 or top_k >= n_words
        case.equal(token_logprobs(logits, drawn), whole.gather(-1, drawn.unsqueeze(-1)).squeeze(-1))
        return
    assert top_k == 0 or (support.sum(-1) <= top_k).all()
    assert ((whole.exp() * support).sum(-1) >= top_p - 1e-5).all() or top_k > 0
    words = [torch.full(case.shape, word) for word in range(n_words)]
    each = torch.stack([token_logprobs(logits, word, support=support) for word in words], dim=-1)
    case.equal((each.exp() * support).sum(-1), torch.ones(case.shape))
    assert (each >= whole - 1e-5)[support].all()


@property_test(st.lists(st.lists(st.floats(-1e3, 1e3), max_size=6), min_size=1, max_size=5))
def test_running_moments_do_not_depend_on_the_batches(batches):
    parts, whole = RunningMoments(), RunningMoments()
    for batch in batches:
        parts.update(torch.tensor(batch, dtype=torch.float64))
    values = [value for batch in batches for value in batch]
    whole.update(torch.tensor(values, dtype=torch.float64))
    assert parts.n == whole.n == len(values)
    assert parts.mean == pytest.approx(whole.mean, abs=1e-9)
    assert parts.squares == pytest.approx(whole.squares, rel=1e-9, abs=1e-6)
    if len(values) > 1 and np.std(values) > 1e-3:
        assert parts.std == pytest.approx(np.std(values, ddof=1))


@property_test(st.sampled_from(["linear", "log"]), st.floats(-5, 50), st.floats(0.1, 20), st.integers(1, 100))
def test_the_controller_moves_towards_its_target_by_a_bounded_step(form, kl, target, n):
    controller = KLController(0.2, target, horizon=500.0, form=form)
    controller.update(kl, n)
    change = controller.coef / 0.2 - 1
    assert math.copysign(1, change) == math.copysign(1, kl - target) or abs(change) < 1e-9 or kl == target
    assert abs(math.log1p(change) if form == "log" else change) <= 0.2 * n / 500 + 1e-12
    assert controller.coef > 0


@property_test(st.integers(1, 30), st.sampled_from(["constant", "linear", "cosine"]), st.integers(0, 10))
def test_the_learning_rate_rises_then_never_rises_again(n_steps, schedule, warmup_steps):
    factors = [learning_rate_factor(step, n_steps, schedule, warmup_steps) for step in range(n_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:warmup_steps] == sorted(set(factors[:warmup_steps]))
    assert factors[warmup_steps:] == sorted(factors[warmup_steps:], reverse=True)
    if warmup_steps < n_steps:
        assert factors[warmup_steps] == 1
