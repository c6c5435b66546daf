"""KL estimators and their gradients against exact sums over a vocabulary of three words; the controller by hand."""

import math

import pytest
import torch

from alignbench.methods.on_policy.kl import KLController, exact_kl, has_moved, k1, k2, k3

POLICY = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
REFERENCE = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
EXACT = sum(p * math.log(p / q) for p, q in zip(POLICY.tolist(), REFERENCE.tolist(), strict=True))


@pytest.mark.parametrize("estimator", [k1, k3])
def test_expectation_over_the_policy_is_the_exact_kl(estimator):
    values = estimator(POLICY.log(), REFERENCE.log())
    assert (POLICY * values).sum().item() == pytest.approx(EXACT)


def test_by_hand():
    # A token twice as likely under the policy, log-ratio ln 2: k1 = ln 2, k2 = (ln 2)^2 / 2, k3 = 1/2 - 1 + ln 2.
    new, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert k1(new, reference).item() == pytest.approx(0.693147, abs=1e-6)
    assert k2(new, reference).item() == pytest.approx(0.240227, abs=1e-6)
    assert k3(new, reference).item() == pytest.approx(0.193147, abs=1e-6)
    # Half as likely: k1 changes its sign, k2 does not change, k3 = 2 - 1 - ln 2.
    assert k1(reference, new).item() == pytest.approx(-0.693147, abs=1e-6)
    assert k2(reference, new).item() == pytest.approx(0.240227, abs=1e-6)
    assert k3(reference, new).item() == pytest.approx(0.306853, abs=1e-6)


def test_k2_is_biased():
    assert (POLICY * k2(POLICY.log(), REFERENCE.log())).sum().item() != pytest.approx(EXACT, rel=0.01)


def test_exact_kl_is_the_sum_over_the_vocabulary():
    """Of each of two positions, the second with policy and reference swapped; a shift of all logits changes nothing."""
    policy, reference = torch.stack((POLICY, REFERENCE)).log(), torch.stack((REFERENCE, POLICY)).log()
    swapped = sum(q * math.log(q / p) for p, q in zip(POLICY.tolist(), REFERENCE.tolist(), strict=True))
    assert exact_kl(policy[None] + 5.0, reference[None] - 3.0)[0].tolist() == pytest.approx([EXACT, swapped])


def expected_gradient(estimator, logits):
    """The expectation over the policy of the gradient of an estimator, term by term."""
    total = torch.zeros_like(logits)
    for word in range(3):
        variable = logits.clone().requires_grad_()
        logprobs = variable.log_softmax(-1)
        (gradient,) = torch.autograd.grad(estimator(logprobs[word], REFERENCE[word].log()), variable)
        total += logprobs[word].exp().detach() * gradient
    return total


def test_gradients_in_expectation():
    """In a loss k1 penalises nothing, k2 has the gradient of KL(pi || ref), k3 that of KL(ref || pi)."""
    logits = POLICY.log() + 0.7
    forward = POLICY * ((POLICY / REFERENCE).log() - EXACT)  # d KL(pi || ref) / d logit, by hand
    backward = POLICY - REFERENCE  # d KL(ref || pi) / d logit
    torch.testing.assert_close(expected_gradient(k1, logits), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(expected_gradient(k2, logits), forward)
    torch.testing.assert_close(expected_gradient(k3, logits), backward)
    assert (forward - backward).abs().max() > 0.05
    variable = logits.clone().requires_grad_()
    exact_kl(variable[None, None], REFERENCE.log()[None, None]).sum().backward()
    torch.testing.assert_close(variable.grad, forward)


def gradient_as_a_reward(estimator, logits):
    """The expectation over the policy of estimator * gradient of log pi: what a penalty in the reward follows."""
    variable = logits.clone().requires_grad_()
    logprobs = variable.log_softmax(-1)
    penalty = estimator(logprobs, REFERENCE.log()).detach()
    (gradient,) = torch.autograd.grad((logprobs.exp().detach() * penalty * logprobs).sum(), variable)
    return gradient


def test_gradients_as_rewards():
    """In the reward k1 alone has the KL's gradient; exact has none at its own position, k3 one of second order."""
    logits = POLICY.log() + 0.7
    forward, backward = POLICY * ((POLICY / REFERENCE).log() - EXACT), POLICY - REFERENCE
    torch.testing.assert_close(gradient_as_a_reward(k1, logits), forward)
    torch.testing.assert_close(gradient_as_a_reward(k3, logits), forward - backward)
    exact = gradient_as_a_reward(lambda p, q: exact_kl(p, q).expand(3), logits)
    torch.testing.assert_close(exact, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize(("estimator", "order"), [(k1, 1), (k2, 2), (k3, 2)])
def test_as_a_reward_only_k1_pulls_back_near_the_reference(estimator, order):
    """A tenth of the distance leaves a tenth of k1's gradient, and a hundredth of the others'."""
    direction = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    sizes = [gradient_as_a_reward(estimator, REFERENCE.log() + step * direction).norm() for step in (0.1, 0.01)]
    assert (sizes[0] / sizes[1]).item() == pytest.approx(10**order, rel=0.1)


def test_exact_kl_of_forbidden_words():
    """A word that neither can draw adds nothing, and takes no gradient."""
    logits = torch.tensor([[[0.0, 1.0, -1e9]]], requires_grad=True)
    reference = torch.tensor([[[0.5, 0.2, -1e9]]])
    kl = exact_kl(logits, reference)
    assert kl.item() == pytest.approx(exact_kl(logits[..., :2], reference[..., :2]).item())
    kl.sum().backward()
    assert logits.grad[0, 0, 2] == 0
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("kl", "coef"),
    [
        (6.6, 0.2 * (1 + 0.1 * 256 / 10_000)),  # 10 % over the target
        (60.0, 0.2 * (1 + 0.2 * 256 / 10_000)),  # far over: the error is cut at 0.2
        (0.0, 0.2 * (1 - 0.2 * 256 / 10_000)),  # far under
        (6.0, 0.2),
    ],
)
def test_adaptive_controller_by_hand(kl, coef):
    controller = KLController(0.2, target=6.0, horizon=10_000)
    controller.update(kl, 256)
    assert controller.coef == pytest.approx(coef)


def test_fixed_controller_stays():
    controller = KLController(0.2, target=None, horizon=10_000)
    controller.update(100.0, 256)
    assert controller.coef == 0.2


@pytest.mark.parametrize(
    ("kl", "coef"),
    [
        (6.6, 0.2 * math.exp(0.1 * 0.5)),
        (60.0, 0.2 * math.exp(0.2 * 0.5)),
        (0.0, 0.2 * math.exp(-0.2 * 0.5)),
        (6.0, 0.2),
    ],
)
def test_log_controller_by_hand(kl, coef):
    controller = KLController(0.2, target=6.0, horizon=512, form="log")
    controller.update(kl, 256)
    assert controller.coef == pytest.approx(coef)


def test_steps_up_and_down_cancel_in_the_log_form_alone():
    ends = {}
    for form in ("linear", "log"):
        controller = KLController(0.2, target=6.0, horizon=100, form=form)
        for kl in (60.0, 0.0):
            controller.update(kl, 100)
        ends[form] = controller.coef
    assert ends["log"] == pytest.approx(0.2)
    assert ends["linear"] == pytest.approx(0.2 * 1.2 * 0.8)


def test_log_controller_stays_positive_on_a_short_horizon():
    controller = KLController(0.2, target=6.0, horizon=1, form="log")
    controller.update(0.0, 64)
    assert 0 < controller.coef < 1e-5


def test_rounding_is_no_move():
    reference, mask = torch.tensor([[-1.0, -2.0], [-3.0, -9.0]]), torch.tensor([[True, True], [True, False]])
    assert not has_moved(reference + 5e-5, reference, mask)
    assert has_moved(reference - torch.tensor([[0.0, 2e-4], [0.0, 0.0]]), reference, mask)
    assert not has_moved(reference - torch.tensor([[0.0, 0.0], [0.0, 2e-4]]), reference, mask), "behind the completion"
