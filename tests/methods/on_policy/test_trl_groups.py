"""RLOO and GRPO against TRL 1.16's on the same rollout, recorded by recorded/record_trl_1_16.py.

Two updates on 8 completions of two prompts. docs/on_policy.md has where definitions differ.
"""

from pathlib import Path

import pytest
import torch
from fixtures.recorded_trl import Recorded, dealt
from safetensors.torch import load_file

from alignbench.methods.grpo import GRPO
from alignbench.methods.on_policy.groups import leave_one_out
from alignbench.methods.on_policy.trainer import OnPolicyTrainer
from alignbench.methods.rloo import RLOO
from alignbench.models.forward import completion_forward, token_logprobs

FOLDER = Path(__file__).with_name("recorded")
SETTINGS = {
    **{"batch_size": 8, "mini_batch_size": 8, "epochs": 2, "completions_per_prompt": 4, "completion_tokens": (7, 7)},
    **{"learning_rate": 1e-3, "max_grad_norm": 1.0, "execution": "plain"},
}
K3 = {"kl_placement": "loss", "kl_estimator": "k3", "kl_coef": 0.3}
CASES = {
    "rloo": (RLOO, {"kl_coef": 0.3}),
    "rloo_normalized": (RLOO, {"kl_coef": 0.3, "normalize_advantages": True}),
    "grpo": (GRPO, {"kl_coef": 0.0}),
    "grpo_kl": (GRPO, K3),
    "dapo": (GRPO, {**K3, "aggregation": "tokens"}),
    "dr_grpo": (GRPO, {"kl_coef": 0.0, "scale_rewards": "none", "aggregation": "constant"}),
}


@pytest.fixture(scope="module")
def recorded():
    return Recorded(FOLDER / "trl_0_11.safetensors")


@pytest.fixture(scope="module")
def theirs():
    return load_file(FOLDER / "trl_1_16.safetensors")


class Step:
    """One step of ours on the recorded rollout, two updates."""

    def __init__(self, recorded, kind, options, monkeypatch):
        rows = dealt(recorded)
        prompts = [rows[0][0], rows[4][0]]
        policy = recorded.policy("reference")
        method = kind(**(SETTINGS | options))
        trainer = OnPolicyTrainer(policy, lambda *_: [score for *_, score in rows], prompts, method, method)
        recorded.load(policy.model, "policy")
        trainer.step = 1  # at the first one policy and reference must agree
        monkeypatch.setattr(trainer, "sample", lambda *_: ([p for p, _, _ in rows], [c for _, c, _ in rows]))
        self.advantages, self.losses, self.norms = [], [], []
        targets, clip = trainer.targets, trainer.networks.placement.clip

        def keep_targets(rollout):
            found = targets(rollout)
            self.advantages.append(found.advantages[:, 0])
            return found

        def keep_norm(longest):
            self.norms.append(clip(longest))
            return self.norms[-1]

        monkeypatch.setattr(trainer, "targets", keep_targets)
        monkeypatch.setattr(trainer.networks.placement, "clip", keep_norm)
        trainer.train_step()
        with torch.no_grad():
            batch = policy.batch([p for p, _, _ in rows], [c for _, c, _ in rows])
            logits, _ = completion_forward(policy.model, batch)
        self.logprobs = token_logprobs(logits, batch.completion_ids) * batch.completion_mask


@pytest.mark.parametrize("case", CASES)
def test_two_updates_agree(recorded, theirs, monkeypatch, case):
    step = Step(recorded, *CASES[case], monkeypatch)
    torch.testing.assert_close(step.advantages[0], theirs[f"{case}/advantages"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(step.norms), theirs[f"{case}/gradient_norms"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(step.logprobs, theirs[f"{case}/logprobs"], rtol=1e-4, atol=1e-4)
    assert (theirs[f"{case}/logprobs"] - recorded_logprobs(recorded)).abs().mean() > 0.01


@torch.no_grad()
def recorded_logprobs(recorded):
    rows, policy = dealt(recorded), recorded.policy()
    batch = policy.batch([p for p, _, _ in rows], [c for _, c, _ in rows])
    return token_logprobs(completion_forward(policy.model, batch)[0], batch.completion_ids) * batch.completion_mask


@torch.no_grad()
def test_left_padding_shifts_positions(recorded, theirs):
    """Theirs gives no positions: the model counts from the first column, padding included, and the KL is another."""
    rows = dealt(recorded, (1, 2))
    batch = recorded.policy().batch([p for p, _, _ in rows], [c for _, c, _ in rows])
    kl = 0.0
    for weights, sign in (("policy", 1), ("reference", -1)):
        arguments = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        logits = recorded.policy(weights).model(**arguments).logits[:, -1 - batch.completion_ids.shape[1] : -1]
        kl = kl + sign * (token_logprobs(logits, batch.completion_ids) * batch.completion_mask).sum(dim=1)
    rewards = (torch.tensor([score for *_, score in rows]) - 0.3 * kl).view(2, 4)
    advantages = leave_one_out(rewards, torch.ones(2, 4, dtype=torch.bool)).flatten()
    torch.testing.assert_close(advantages, theirs["rloo_padded/advantages"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "case"),
    [
        ((GRPO, {"kl_coef": 0.3}), "grpo_kl"),  # k1 in the reward against k3 in the loss
        ((GRPO, K3), "grpo_corrected"),  # theirs, unless told otherwise, is k3 times the ratio, which is differentiated
        ((RLOO, {"kl_coef": 0.3, "ratio": "token"}), "rloo"),
        ((GRPO, {"kl_coef": 0.0, "aggregation": "token_sums"}), "grpo"),
    ],
)
def test_other_definitions_give_other_numbers(recorded, theirs, monkeypatch, ours, case):
    step = Step(recorded, *ours, monkeypatch)
    assert (step.logprobs - theirs[f"{case}/logprobs"]).abs().max() > 1e-3
