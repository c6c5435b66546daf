"""KL estimators against the exact sum over a vocabulary, and the controller by hand."""

import math

import pytest
import torch

from alignbench.ppo.kl import KLController, k1, k3

POLICY = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
REFERENCE = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
EXACT = sum(p * math.log(p / q) for p, q in zip(POLICY.tolist(), REFERENCE.tolist(), strict=True))


@pytest.mark.parametrize("estimator", [k1, k3])
def test_expectation_over_the_policy_is_the_exact_kl(estimator):
    values = estimator(POLICY.log(), REFERENCE.log())
    assert (POLICY * values).sum().item() == pytest.approx(EXACT)


def test_by_hand():
    # log-ratio ln 2 for a token twice as likely under the policy: k1 = ln 2, k3 = 1/2 - 1 + ln 2.
    new, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert k1(new, reference).item() == pytest.approx(math.log(2))
    assert k3(new, reference).item() == pytest.approx(math.log(2) - 0.5)
    assert k1(reference, new).item() == pytest.approx(-math.log(2))


def test_k3_is_never_negative():
    generator = torch.Generator().manual_seed(0)
    values = k3(torch.randn(1000, generator=generator), torch.randn(1000, generator=generator))
    assert values.min() >= 0


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
