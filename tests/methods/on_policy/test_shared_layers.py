"""Shared frozen layers: what is frozen, what is computed once, and that replaying it changes nothing."""

import dataclasses

import pytest
import torch
from fixtures.cases import few_of_product

from alignbench.errors import ModelError
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.networks import Networks
from alignbench.methods.on_policy.rollout import Rollout
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.records import Completion

CONFIG = PPOConfig(
    learning_rate=5e-3,
    batch_size=8,
    mini_batch_size=4,
    micro_batch_size=2,
    ppo_epochs=2,
    completion_tokens=(3, 6),
    kl_coef=0.3,
    kl_target=None,
    shared_layers=1,
    value_init="normal",
)
LORA_HALVES = {f"layers.1.self_attn.{p}_proj.lora_{half}.default.weight" for p in "qv" for half in "AB"}


def build(policy, reward, prompts, **changes):
    torch.manual_seed(0)
    return PPOTrainer(policy, reward, prompts, dataclasses.replace(CONFIG, **changes))


def trained_names(trainer):
    return {name.removeprefix("policy.") for name in trainer.parameters if name.startswith("policy.")}


def test_what_lies_below_is_frozen_and_nothing_else(sure_policy, reward, prompts):
    """The output layer is trained, but for the GPT-Neo's, which is its embedding."""
    neo = build(sure_policy(), reward, prompts)
    names = {name for name, _ in neo.model.named_parameters()}
    assert trained_names(neo) == {name for name in names if name.startswith(("transformer.h.1.", "transformer.ln_f."))}
    assert neo.cost.trainable_parameters == sum(p.numel() for p in neo.parameters.values())
    llama = build(sure_policy("llama"), reward, prompts)
    names = {name for name, _ in llama.model.named_parameters()}
    above = ("model.layers.1.", "model.norm.", "lm_head.")
    assert trained_names(llama) == {name for name in names if name.startswith(above)}
    lora = build(sure_policy("llama", "fresh"), reward, prompts)
    assert trained_names(lora) == {f"base_model.model.model.{name}" for name in LORA_HALVES}


def test_training_leaves_the_shared_layers_alone(sure_policy, reward, prompts):
    trainer = build(sure_policy(), reward, prompts)
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train(2)
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, start[name])}
    assert moved == trained_names(trainer)


def without_sharing(networks, batch):
    return networks.reference_logits(batch, None), None


@pytest.mark.parametrize("family", ["gpt_neo", "llama"])
def test_a_replay_changes_no_number(sure_policy, reward, prompts, family):
    """Log-probabilities, values, reference and gradients, on prompts of different lengths."""
    policy = sure_policy(family)
    networks = build(policy, reward, prompts).networks
    lengths = (3, 6, 1, 5, 2, 4)
    completions = [Completion(p.id, 0, "", (7, 4, 9, 8, 5, 3)[:n], "length") for p, n in zip(prompts, lengths)]  # noqa: B905
    batch = policy.batch(prompts, completions)
    _, shared = networks.reference_and_shared(batch)
    assert shared.shape == (len(batch), batch.input_ids.shape[1] - 1, 32)  # nothing follows the last token
    assert not shared.requires_grad
    found = []
    for recorded in (None, shared):
        logits, values = networks.policy_and_values(batch, recorded)
        loss = (logits.log_softmax(-1)[..., 3] + values**2).sum()
        gradients = torch.autograd.grad(loss, list(networks.parameters.values()))
        found.append([logits, values, networks.reference_logits(batch, recorded), *gradients])
    assert any(gradient.any() for gradient in found[0][3:])
    for without, replayed in zip(*found, strict=True):
        assert torch.equal(without, replayed)
    other = networks.policy_and_values(batch, torch.zeros_like(shared))[0]  # the recorded output is what is used
    assert (other - found[0][0]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("adapter", "changes"),
    few_of_product(
        {"none": None, "fresh": "fresh", "trained": "trained"},
        {
            "plain": {},
            "exact": {"kl_placement": "loss", "kl_estimator": "exact"},
            "separate": {"value_model": "separate", "gradient_checkpointing": True},
        },
        [("none", "plain"), ("none", "separate"), ("fresh", "plain"), ("trained", "exact")],
    ),
)
def test_a_run_is_the_same_without_replay(sure_policy, reward, prompts, monkeypatch, adapter, changes):
    monkeypatch.setattr(Rollout, "trimmed", lambda self: self)  # another width rounds otherwise
    replayed = build(sure_policy("llama", adapter), reward, prompts, **changes)
    replayed.train(2)
    monkeypatch.setattr(Networks, "reference_and_shared", without_sharing)
    plain = build(sure_policy("llama", adapter), reward, prompts, **changes)
    plain.train(2)
    for name, parameter in plain.parameters.items():
        assert torch.equal(parameter, replayed.parameters[name]), name


def test_shared_layers_are_computed_once_per_rollout(sure_policy, reward, prompts, monkeypatch):
    """Policy, reference and every epoch's passes over 4 micro-batches: the first layer runs 4 times, all told."""
    counts = {}
    for label in ("replayed", "plain"):
        if label == "plain":
            monkeypatch.setattr(Networks, "reference_and_shared", without_sharing)
        trainer = build(sure_policy("llama"), reward, prompts, execution="plain")
        drawn, calls = trainer.sample(1), []
        monkeypatch.setattr(trainer, "sample", lambda *_, drawn=drawn: drawn)
        norm = trainer.model.model.layers[0].input_layernorm
        norm.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        trainer.train_step()
        counts[label] = len(calls)
    assert counts == {"replayed": 4, "plain": 4 + 4 + 2 * 4}


def test_nothing_left_to_train_is_refused(sure_policy, reward, prompts):
    with pytest.raises(ModelError, match="shared_layers: got 2, expected fewer than the model's 2 layers"):
        build(sure_policy(), reward, prompts, shared_layers=2)
