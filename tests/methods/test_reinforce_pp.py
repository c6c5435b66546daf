"""REINFORCE++: what must hold of its advantages, whatever the rewards."""

from types import SimpleNamespace

import pytest
import torch

from alignbench.methods.reinforce_pp import ReinforcePlusPlus

LENGTHS = torch.tensor([5, 1, 3, 5, 2, 4, 5, 3])


@pytest.mark.parametrize("baseline", [{}, {"baseline": "group", "completions_per_prompt": 4}], ids=["none", "group"])
def test_advantages_have_mean_0_and_variance_1_over_the_tokens_of_the_batch(baseline):
    """The variance has the divisor n; what is no token of a completion has none."""
    torch.manual_seed(0)
    mask = torch.arange(5) < LENGTHS[:, None]
    rewards, kl, none = torch.randn(8), torch.randn(8, 5) * mask, torch.zeros(8, 5)
    batch = SimpleNamespace(completion_mask=mask)
    rollout = SimpleNamespace(
        rewards=rewards, kl=kl, mask=mask, batch=batch, policy_logprobs=kl, reference_logprobs=none
    )
    method = ReinforcePlusPlus(batch_size=8, mini_batch_size=4, **baseline)
    advantages = method.targets(rollout, 0.1).advantages
    of_tokens = advantages[mask].double()
    assert of_tokens.mean().item() == pytest.approx(0, abs=1e-6)
    assert of_tokens.var(unbiased=False).item() == pytest.approx(1, abs=1e-4)
    assert (advantages[~mask] == 0).all()
