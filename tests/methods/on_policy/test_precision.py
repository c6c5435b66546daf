"""Gradient checkpointing changes no number; bfloat16, mixed and pure, starts from KL 0 and ratio 1."""

import dataclasses

import pytest
import torch
from fixtures.cases import few_of_product

from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.models.forward import SequenceBatch

CONFIG = PPOConfig(
    learning_rate=5e-3,
    batch_size=8,
    mini_batch_size=4,
    micro_batch_size=2,
    ppo_epochs=2,
    completion_tokens=(3, 6),
    kl_coef=0.3,
    kl_target=None,
)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
EXACT = {"kl_placement": "loss", "kl_estimator": "exact"}


def build(policy, reward, prompts, **changes):
    return PPOTrainer(policy, reward, prompts, dataclasses.replace(CONFIG, **changes))


@pytest.mark.parametrize(
    ("family", "changes"),
    few_of_product(
        {"gpt_neo": "gpt_neo", "llama": "llama"},
        {"plain": {}, "shared, separate": {"shared_layers": 1, "value_model": "separate"}, "exact": EXACT},
        [("gpt_neo", "plain"), ("llama", "shared, separate"), ("gpt_neo", "exact")],
    ),
)
def test_gradient_checkpointing_gives_the_same_update(sure_policy, reward, prompts, family, changes):
    plain = build(sure_policy(family), reward, prompts, **changes)
    recomputed = build(sure_policy(family), reward, prompts, gradient_checkpointing=True, **changes)
    plain.train(2)
    recomputed.train(2)
    assert not recomputed.model.training  # sampling and measuring stay in evaluation mode
    for name, parameter in plain.parameters.items():
        torch.testing.assert_close(recomputed.parameters[name], parameter, rtol=0, atol=1e-6)


@pytest.mark.parametrize("adapter", [None, "fresh"])
def test_gradient_checkpointing_computes_layers_again(sure_policy, reward, prompts, monkeypatch, adapter):
    """Four micro-batches in two epochs: eight passes forward in the update, and eight more in its backward passes."""
    counts = {}
    for wanted in (False, True):
        trainer = build(sure_policy("llama", adapter), reward, prompts, gradient_checkpointing=wanted)
        calls, update = [], trainer.updater.run
        inner = trainer.model.get_base_model() if adapter else trainer.model
        inner.model.layers[1].post_attention_layernorm.register_forward_hook(lambda *_, calls=calls: calls.append(1))

        def counted(*arguments, calls=calls, update=update, **named):
            calls.clear()
            return update(*arguments, **named)

        monkeypatch.setattr(trainer.updater, "run", counted)
        trainer.train_step()
        counts[wanted] = len(calls)
    assert counts == {False: 8, True: 16}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("adapter", "changes"),
    few_of_product(
        {"none": None, "fresh": "fresh", "trained": "trained"},
        {
            "plain": {},
            "exact, shared": {**EXACT, "shared_layers": 1},
            "separate": {"value_model": "separate", "gradient_checkpointing": True},
        },
        [("none", "plain"), ("trained", "exact, shared"), ("fresh", "separate")],
    ),
)
def test_mixed_precision(sure_policy, reward, prompts, adapter, changes, device):
    policy = sure_policy("llama", adapter)
    policy.model.to(device)
    trainer = build(policy, reward, prompts, mixed_precision=True, mini_batch_size=8, ppo_epochs=1, **changes)
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    dtypes = []
    trainer.model.get_output_embeddings().register_forward_hook(lambda *call: dtypes.append(call[2].dtype))
    first = trainer.train_step()
    assert set(dtypes) == {torch.bfloat16}
    assert first["objective/kl"] == pytest.approx(0.0, abs=1e-6)
    assert first["policy/ratio_mean"] == pytest.approx(1.0, abs=0.05)
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert trainer.value_head.weight.dtype == torch.float32
    assert any(abs(trainer.train_step()["objective/kl"]) > 0 for _ in range(3))
    assert any(not torch.equal(p, before[name]) for name, p in trainer.parameters.items() if name.startswith("policy."))
    assert all(p.isfinite().all() for p in trainer.parameters.values())


def test_mixed_precision_stays_near_full_precision(sure_policy, reward, prompts):
    """The same rollout: the first gradient differs by rounding, and does differ."""
    gradients = []
    for mixed_precision in (False, True):
        changes = {"mixed_precision": mixed_precision, "ppo_epochs": 1, "execution": "plain"}
        trainer = build(sure_policy("llama"), reward, prompts, **changes)
        drawn = build(sure_policy("llama"), reward, prompts).sample(1)
        trainer.sample = lambda *_, drawn=drawn: drawn
        kept, step = [], trainer.optimizer.step

        def spied(trainer=trainer, kept=kept, step=step):
            kept.append(torch.cat([p.grad.flatten() for p in trainer.parameters.values()]))
            step()

        trainer.optimizer.step = spied
        trainer.train_step()
        gradients.append(kept[0])
    difference = ((gradients[1] - gradients[0]).norm() / gradients[0].norm()).item()
    assert 1e-4 < difference < 0.1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("adapter", [None, "fresh"])
def test_bfloat16_weights(sure_policy, reward, prompts, adapter, device):
    policy = sure_policy("llama", adapter)
    policy.model.to(device, torch.bfloat16)
    trainer = build(policy, reward, prompts, learning_rate=0.05, early_stop_kl=5.0)
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert trainer.train_step()["objective/kl"] == 0.0
    assert abs(trainer.train_step()["objective/kl"]) > 0
    assert all(p.dtype == torch.bfloat16 for p in trainer.model.parameters())
    assert trainer.value_head.weight.dtype == torch.float32
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, start[name])}
    assert moved
    assert all("lora_" in name for name in moved) or adapter is None


def test_old_log_probabilities_are_bit_equal_to_the_differentiated_ones(sure_policy, reward, prompts):
    """The rollout is measured by the pass that is differentiated: in bfloat16 another pass would be off by rounding."""
    policy = sure_policy("llama")
    policy.model.to(torch.bfloat16)
    trainer = build(policy, reward, prompts, mini_batch_size=8, micro_batch_size=8, ppo_epochs=1)
    metrics = trainer.train_step()
    assert metrics["policy/ratio_mean"] == metrics["policy/ratio_max"] == 1.0
    assert metrics["policy/approximate_kl"] == 0.0


def test_mixed_precision_covers_values_of_a_separate_model(sure_policy, reward, prompts):
    trainer = build(sure_policy(), reward, prompts, mixed_precision=True, value_model="separate", value_init="normal")
    prompts_and_completions = trainer.sample(1)
    batch: SequenceBatch = trainer.policy.batch(*prompts_and_completions)
    dtypes = []
    trainer.networks.value_model.transformer.h[0].mlp.register_forward_hook(lambda *call: dtypes.append(call[2].dtype))
    _, values = trainer.networks.policy_and_values(batch, None)
    assert dtypes == [torch.bfloat16]
    assert values.dtype == torch.float32
