"""Our PPO against TRL 0.11.4's classic trainer on the same rollout, recorded by recorded/record_trl_0_11.py.

First what agrees, then every place where the definitions differ, each pinned by what TRL's number is in our terms.
docs/ppo.md says who is right.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.recorded_trl import Recorded

from alignbench.methods.on_policy import ppo as ppo_module
from alignbench.methods.on_policy import trainer as trainer_module
from alignbench.methods.on_policy import update as update_module
from alignbench.methods.on_policy.advantages import generalised_advantages
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.kl import KLController, exact_kl, k1, k2
from alignbench.methods.on_policy.losses import policy_loss, value_loss
from alignbench.methods.on_policy.rewards import RunningMoments, masked_mean, token_rewards, whiten
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.models.forward import completion_forward, token_logprobs

STEPS = ("main", "halves")
NO_LIMIT = 1e9
"""TRL clips no gradient unless asked to."""


@pytest.fixture(scope="module")
def recorded():
    return Recorded(Path(__file__).with_name("recorded") / "trl_0_11.safetensors")


def assert_agree(ours, theirs):
    """Relative 1e-4; relative to the tensor's size where an entry happens to be near 0."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


def trl_whiten(values, mask, *, center):
    """TRL's whitening of real tokens: the unbiased variance."""
    n = mask.sum()
    mean = masked_mean(values, mask)
    scaled = (values - mean) * torch.rsqrt(masked_mean((values - mean) ** 2, mask) * n / (n - 1) + 1e-8)
    return (scaled if center else scaled + mean) * mask


@pytest.fixture
def our_step(recorded, monkeypatch):
    """Runs one step of our trainer on the recorded rollout: the second one of a run, in which the policy has moved."""

    def step(recording, *, own_whitening=False, **changed):
        def fixed(seed, purpose, *key):
            return FixedOrder(recorded.orders[key[-1]] if purpose == "mini-batches" else range(8))

        for module in (trainer_module, update_module):
            monkeypatch.setattr(module, "generator", fixed)
        monkeypatch.setattr(ppo_module, "whiten", whiten if own_whitening else trl_whiten)
        policy = recorded.policy("reference")
        scores = dict(zip((p.text for p in recorded.prompts), recorded[f"{recording}/scores"].tolist(), strict=True))
        config = our_config(recorded.configs[recording], **changed)
        trainer = PPOTrainer(policy, lambda prompts, _: [scores[p] for p in prompts], recorded.prompts, config)
        recorded.load(policy.model, "policy")
        trainer.value_head.load_state_dict(recorded.value_head().state_dict())
        trainer.step = 1
        drawn = {completion.prompt_id: completion for completion in recorded.completions}
        monkeypatch.setattr(policy, "complete", lambda prompts, *_: [drawn[prompt.id] for prompt in prompts])
        metrics = trainer.train_step()
        with torch.no_grad():
            batch = policy.batch(recorded.prompts, recorded.completions)
            logits, hidden = completion_forward(policy.model, batch, hidden=True)
            values = trainer.value_head(hidden).squeeze(-1)
        return trainer, metrics, token_logprobs(logits, batch.completion_ids) * recorded.mask, values * recorded.mask

    return step


class FixedOrder:
    """In place of a random generator: the recorded order."""

    def __init__(self, order):
        self.order = order

    def permutation(self, n):
        assert n == len(self.order)
        return np.array(self.order)

    def integers(self, _low, high, size):
        return np.full(size, high - 1)


def our_config(theirs, **changed):
    """Our options for TRL's configuration, as docs/migrating_from_trl.md maps them."""
    options = {
        **{"batch_size": theirs["batch_size"], "mini_batch_size": theirs["mini_batch_size"]},
        **{"ppo_epochs": theirs["ppo_epochs"], "learning_rate": theirs["learning_rate"]},
        **{"kl_coef": theirs.get("init_kl_coef", 0.2), "kl_target": theirs.get("target", 6.0)},
        **{"kl_horizon": theirs.get("horizon", 10_000.0), "gamma": theirs.get("gamma", 1.0)},
        **{"gae_lambda": theirs.get("lam", 0.95), "clip_range": theirs.get("cliprange", 0.2)},
        **{"value_clip_range": theirs.get("cliprange_value", 0.2), "value_coef": theirs.get("vf_coef", 0.1)},
        **{"max_grad_norm": theirs.get("max_grad_norm", NO_LIMIT), "completion_tokens": (7, 7)},
        "execution": "plain",  # a recorded rollout was not sampled here, so nothing was captured
    }
    return PPOConfig(**(options | changed))


# What agrees.


def test_the_rollout_is_worth_comparing(recorded):
    assert len(set(map(len, recorded.prompt_ids))) > 2
    assert len(set(recorded.lengths)) > 2
    assert {c.finish_reason for c in recorded.completions} == {"eos", "length"}
    assert [recorded.policy().encode_prompt(p.text) for p in recorded.prompts] == recorded.prompt_ids
    assert recorded["main/objective/kl"] > 1
    assert max(recorded.updates("halves", "policy/clipfrac")) > 0.5
    assert max(recorded.updates("halves", "val/clipfrac")) > 0.5


@torch.no_grad()
def test_logprobs_and_values_agree(recorded):
    logprobs, values, _ = recorded.pass_over(recorded.policy())
    assert_agree(logprobs * recorded.mask, recorded.aligned("main/logprobs"))
    assert_agree(values * recorded.mask, recorded.aligned("main/values"))
    reference, _, _ = recorded.pass_over(recorded.policy("reference"))
    assert_agree(reference * recorded.mask, recorded.aligned("main/reference_logprobs"))


@pytest.mark.parametrize("recording", STEPS)
def test_rewards_agree(recorded, recording):
    kl = k1(recorded.aligned(f"{recording}/logprobs"), recorded.aligned(f"{recording}/reference_logprobs"))
    kl_coef = recorded[f"{recording}/kl_coef"].item()
    ours = token_rewards(recorded[f"{recording}/scores"], kl, recorded.mask, kl_coef)
    assert_agree(ours, recorded.aligned(f"{recording}/rewards"))


@pytest.mark.parametrize(("recording", "gamma", "gae_lambda"), [("main", 0.95, 0.9), ("halves", 1.0, 0.95)])
def test_advantages_and_returns_agree(recorded, recording, gamma, gae_lambda):
    rewards, values = recorded.aligned(f"{recording}/rewards"), recorded.aligned(f"{recording}/values")
    advantages, returns = generalised_advantages(rewards, values, recorded.mask, gamma, gae_lambda)
    assert_agree(advantages, recorded.aligned(f"{recording}/raw_advantages"))
    assert_agree(returns, recorded.aligned(f"{recording}/returns"))


@torch.no_grad()
def test_losses_agree(recorded):
    """Of each mini-batch before anything moved, where the losses depend on nothing but the recording."""
    parts = {name: recorded.aligned(f"halves/{name}") for name in ("logprobs", "values", "advantages", "returns")}
    for half, name in ((recorded.orders[0][:4], "update0"), (recorded.orders[0][4:], "update1")):
        logprobs, values, advantages, returns = (part[half] for part in parts.values())
        mask = recorded.mask[half]
        policy, _ = policy_loss(logprobs, logprobs, advantages, 0.2)
        value, _ = value_loss(values, values, returns, 0.2)
        assert_agree(masked_mean(policy, mask), recorded[f"accumulated/{name}/loss/policy"])
        assert_agree(masked_mean(value, mask), recorded[f"accumulated/{name}/loss/value"])


@pytest.mark.parametrize("recording", STEPS)
def test_a_whole_step_agrees(recorded, our_step, recording):
    """With TRL's variance in place of ours every number of the step agrees, four clipped updates included."""
    trainer, metrics, logprobs, values = our_step(recording)
    assert metrics["policy/n_updates"] == len(recorded.updates(recording, "loss/policy"))
    assert_agree(logprobs, recorded.aligned(f"{recording}/new_logprobs"))
    assert_agree(values, recorded.aligned(f"{recording}/new_values"))
    moved = recorded.aligned(f"{recording}/new_logprobs") - recorded.aligned(f"{recording}/logprobs")
    assert moved.abs().mean() > 0.05
    pairs = {
        "policy/loss": "loss/policy",
        "value/loss": "loss/value",
        "policy/clip_fraction": "policy/clipfrac",
        "value/clip_fraction": "val/clipfrac",
        "policy/gradient_norm": "gradient_norm",
    }
    for ours, theirs in pairs.items():
        updates = recorded.updates(recording, theirs)
        assert metrics[ours] == pytest.approx(sum(updates) / len(updates), rel=1e-4, abs=1e-6), ours
    assert metrics["objective/kl"] == pytest.approx(recorded[f"{recording}/objective/kl"].item(), rel=1e-4)
    assert trainer.controller.coef == pytest.approx(recorded[f"{recording}/new_kl_coef"].item(), rel=1e-6)


def test_the_adaptive_controller_agrees(recorded):
    controller = KLController(0.3, 1.4, 100.0)
    controller.update(recorded["main/objective/kl"].item(), 8)
    assert controller.coef == pytest.approx(recorded["main/new_kl_coef"].item(), rel=1e-6)
    assert controller.coef != pytest.approx(0.3, rel=1e-3)


@torch.no_grad()
def test_estimators_agree(recorded):
    """Their kl, mse and full are our k1, k2 and exact."""
    logprobs, reference = recorded.aligned("main/logprobs"), recorded.aligned("main/reference_logprobs")
    logits, reference_logits = (recorded.pass_over(recorded.policy(name))[2] for name in ("policy", "reference"))
    ours = {"kl": k1(logprobs, reference), "mse": k2(logprobs, reference), "full": exact_kl(logits, reference_logits)}
    for name, kl in ours.items():
        theirs = recorded[f"estimators/{name}"]
        rows = [row[mask] for row, mask in zip(theirs, recorded["main/mask"].bool(), strict=True)]
        assert_agree(kl * recorded.mask, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))


def test_running_moments_agree(recorded):
    moments = RunningMoments()
    for i in range(3):
        moments.update(recorded[f"scaling/scores{i}"])
        assert [moments.mean, moments.std] == pytest.approx(recorded[f"scaling/moments{i}"].tolist(), rel=1e-5)


# Where definitions differ.


def test_whitening_variance(recorded, our_step):
    """Theirs is unbiased: ours = theirs * sqrt(n / (n - 1)), and that is the only difference."""
    n = recorded.mask.sum().item()
    ours = whiten(recorded.aligned("main/raw_advantages"), recorded.mask, center=True)
    assert_agree(ours, recorded.aligned("main/advantages") * math.sqrt(n / (n - 1)))
    _, _, logprobs, _ = our_step("halves", own_whitening=True)
    assert (logprobs - recorded.aligned("halves/new_logprobs")).abs().max() > 1e-3


def test_left_padding_shifts_positions(recorded):
    """Theirs, padded on the left, counts positions from the first column, padding included; ours do not change."""
    policy = recorded.policy()
    input_ids, attention_mask = recorded["left/input_ids"], recorded["left/attention_mask"]
    with torch.no_grad():
        shifted = policy.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=torch.arange(input_ids.shape[1]).expand_as(input_ids),
        ).logits
        ours = recorded.pass_over(policy)[0] * recorded.mask
    shifted = token_logprobs(shifted[:, :-1], input_ids[:, 1:])
    mask = recorded["left/mask"].bool()
    rows = [row[chosen] for row, chosen in zip(shifted, mask, strict=True)]
    theirs = recorded.aligned("left/logprobs")
    assert_agree(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), theirs)
    assert_agree(ours, recorded.aligned("main/logprobs"))  # which was padded on the right
    is_padded = attention_mask[:, 0] == 0
    assert_agree(ours[~is_padded], theirs[~is_padded])
    assert 0 < is_padded.sum() == ((ours - theirs).abs().amax(dim=1) > 0.1).sum()


def test_whitened_rewards_leak_from_padding(recorded):
    """Theirs gives padding the reward c = mean * (1 - 1 / std), which GAE carries into the completion in front of it.

    A row with k padded columns behind its token t (the last one excluded) gets c * sum of (gamma * lambda)^j on top.
    """
    rewards, values = recorded.aligned("whitened_rewards/rewards"), recorded.aligned("whitened_rewards/values")
    whitened = trl_whiten(rewards, recorded.mask, center=False)
    advantages, _ = generalised_advantages(whitened, values, recorded.mask, 1.0, 0.95)
    n, mean = recorded.mask.sum(), masked_mean(rewards, recorded.mask)
    c = mean * (1 - torch.rsqrt(masked_mean((rewards - mean) ** 2, recorded.mask) * n / (n - 1) + 1e-8))
    n_padded = (recorded["whitened_rewards/attention_mask"] == 0).sum(dim=1)
    leak = torch.zeros_like(advantages)
    for row, (length, k) in enumerate(zip(recorded.lengths, n_padded.tolist(), strict=True)):
        for t in range(length):
            leak[row, t] = c * sum(0.95**j for j in range(length - t, length - t + k))
    theirs = recorded.aligned("whitened_rewards/raw_advantages")
    assert_agree(advantages + leak, theirs)
    assert leak.abs().max() > 0.1 * theirs.abs().max()


def test_rewards_outside_the_completion(recorded):
    """Theirs leaves KL penalties on prompts and padding until the advantages mask them; ours are 0 there."""
    assert recorded["main/rewards"][recorded["main/mask"] == 0].abs().max() > 0.01
    assert token_rewards(torch.zeros(8), torch.ones(8, 7), recorded.mask, 0.3)[~recorded.mask].abs().max() == 0


def test_accumulated_gradients(recorded):
    """Theirs is the mean of the passes' means, in which tokens of a short pass weigh more; ours is over all tokens."""
    old = {name: recorded.aligned(f"halves/{name}") for name in ("logprobs", "values", "advantages", "returns")}

    def gradient_norm(reduce):
        policy, head = recorded.policy(), recorded.value_head()
        batch = policy.batch(recorded.prompts, recorded.completions)
        logits, hidden = completion_forward(policy.model, batch, hidden=True)
        losses, _ = policy_loss(token_logprobs(logits, batch.completion_ids), old["logprobs"], old["advantages"], 0.2)
        losses = losses + 0.1 * value_loss(head(hidden).squeeze(-1), old["values"], old["returns"], 0.2)[0]
        reduce(losses).backward()
        gradients = [p.grad for p in [*policy.model.parameters(), *head.parameters()]]
        return torch.stack([g.norm() for g in gradients]).norm()

    def mean_of_means(losses):
        halves = (recorded.orders[0][:4], recorded.orders[0][4:])
        return sum(masked_mean(losses[half], recorded.mask[half]) for half in halves) / 2

    theirs = recorded["accumulated/update1/gradient_norm"]
    assert_agree(gradient_norm(mean_of_means), theirs)
    assert gradient_norm(lambda losses: masked_mean(losses, recorded.mask)) < 0.95 * theirs


def test_gradients_are_clipped_at_every_update(recorded, our_step):
    """Theirs keeps the parameters in an iterator that the first clipping uses up; ours clips each time."""
    first, *later = recorded.updates("clipped_gradient", "gradient_norm")
    assert first == pytest.approx(0.1, rel=1e-4)
    assert min(later) > 1
    _, _, logprobs, _ = our_step("halves", max_grad_norm=0.1, adam_epsilon=10.0)
    _, _, unclipped, _ = our_step("halves", adam_epsilon=10.0)
    old = recorded.aligned("halves/logprobs")
    assert (logprobs - old).norm() < 0.2 * (unclipped - old).norm()


def test_early_stop_measure(recorded, our_step):
    """Theirs is the mean of old minus new log-probabilities, negative where the policy has moved all the same."""
    assert min(recorded.updates("halves", "policy/policykl")) < -0.1
    _, metrics, _, _ = our_step("halves")
    assert metrics["policy/approximate_kl"] > 0.01


def test_value_head_start(recorded):
    """Theirs starts at random, so the first values say something; ours at 0."""
    assert recorded["policy/v_head.summary.weight"].abs().max() > 0.1
    trainer = PPOTrainer(
        recorded.policy(), lambda _, texts: [0.0] * len(texts), recorded.prompts, PPOConfig(completion_tokens=(2, 7))
    )
    assert trainer.value_head.weight.abs().max() == 0


def test_facts_about_trl(recorded):
    """What TRL does that no number of a rollout shows; the recording script measures each."""
    facts = recorded.facts
    assert facts["dropout_difference"] == 0  # every forward pass is in evaluation mode
    # ... in which models do not checkpoint: `gradient_checkpointing` recomputes nothing.
    assert facts["block_passes_with_checkpointing"] == facts["block_passes_without_checkpointing"]
    assert "'float' object has no attribute 'to'" in facts["score_scaling_raises"]
    assert facts["moved_by_a_skipped_batch"] > 1e-4  # Adam's momentum goes on over a loss times 0
    assert abs(facts["first_kl_of_a_trained_adapter"]) > 0.1  # its reference is the bare base
    assert facts["shared_layers_share_memory"] is False
    assert facts["tokens_of_a_prompt_that_begins_with_eos"] == 1
    assert facts["changed_by_eos_as_pad"] < 1e-5
    assert facts["mask_of_a_t5_completion"] == [[0, 1, 1, 1]]  # its first token is not trained on
    assert facts["longest_of_length_sampler_20_30"] == 29
    assert facts["step_takes"] == ["self", "queries", "responses", "scores", "response_masks"]  # and no temperature
