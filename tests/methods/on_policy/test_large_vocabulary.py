"""PPO where logits are too many to be made whole: the same training, by blocks of words or by fewer rows."""

import math

import pytest
import torch
from fixtures.cases import few_of_product

from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.networks import Networks
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.methods.online_dpo import OnlineDPO
from alignbench.models import output_layer

CONFIG = {"batch_size": 8, "mini_batch_size": 4, "ppo_epochs": 2, "learning_rate": 1e-3, "adam_epsilon": 1e-3}
LENGTH = 8


def trained(policy, reward, prompts, **changes):
    """Trainer after two steps, what they logged, and how far each weight has moved."""
    config = PPOConfig(**(CONFIG | {"completion_tokens": (3, LENGTH), "log_completions_every": 2} | changes))
    trainer, logged = PPOTrainer(policy, reward, prompts, config, seed=0), []
    start = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    trainer.train(2, log=lambda _, metrics: logged.append(metrics))
    return trainer, logged, {name: p.detach() - start[name] for name, p in trainer.parameters.items()}


def fill(monkeypatch, policy, rows):
    """So many completions have logits of the largest size."""
    row = 4 * LENGTH * policy.model.get_output_embeddings().weight.shape[0]
    monkeypatch.setattr(output_layer, "MOST_BYTES", math.floor(row * (rows + 0.5)))
    monkeypatch.setattr(output_layer, "BLOCK_BYTES", 0)
    monkeypatch.setattr(output_layer, "LEAST_WORDS", 7)


CASES = {
    "defaults": ("fresh", {}, True),
    "exact": ("trained", {"temperature": 0.7, "min_completion_tokens": 2, "kl_estimator": "exact"}, True),
    "separate": ("fresh", {"value_model": "separate", "gradient_checkpointing": True}, True),
    "shared": ("fresh", {"shared_layers": 1, "kl_placement": "loss", "kl_estimator": "k2"}, True),
    "top-k": ("fresh", {"top_k": 5}, False),
    "exact in the loss": ("fresh", {"kl_placement": "loss", "kl_estimator": "exact"}, False),
    "full weights": (None, {}, False),
}
FEW = [*(("gpt_neo", name) for name in CASES), ("llama", "defaults")]


@pytest.mark.parametrize(("family", "case"), few_of_product({"gpt_neo": "gpt_neo", "llama": "llama"}, CASES, FEW))
def test_training_is_the_same(sure_policy, reward, prompts, monkeypatch, family, case):
    """Every number of two steps (the second from what sampling saw) and every weight, to float rounding."""
    adapter, changes, by_blocks = case
    small, expected, moved = trained(sure_policy(family, adapter), reward, prompts, **changes)
    assert small.networks.output_layer is None
    policy = sure_policy(family, adapter)
    fill(monkeypatch, policy, rows=1)
    large, found, also_moved = trained(policy, reward, prompts, **changes)
    assert (large.networks.output_layer is not None) == by_blocks
    assert large.networks.rows_at_once == (4 if by_blocks else 1)
    for one, other in zip(found, expected, strict=True):
        numbers = {key: value for key, value in other.items() if not key.startswith(("time/", "memory/"))}
        assert {key: one[key] for key in numbers} == pytest.approx(numbers, rel=1e-4, abs=2e-5)
    length = sum(value.square().sum() for value in moved.values()).sqrt()
    apart = sum((also_moved[name] - value).square().sum() for name, value in moved.items()).sqrt()
    assert length > 0
    assert apart < 2e-3 * length


def test_blocks_are_at_work_in_every_pass(sure_policy, reward, prompts, monkeypatch):
    """The output layer itself is run by sampling alone."""
    policy = sure_policy("llama", "fresh")
    fill(monkeypatch, policy, rows=0)
    config = PPOConfig(**CONFIG, completion_tokens=(3, LENGTH))
    trainer, seen = PPOTrainer(policy, reward, prompts, config), []
    policy.model.get_output_embeddings().register_forward_hook(lambda *call: seen.append(call[2].shape))
    trainer.train_step()
    assert {shape[1] for shape in seen if shape[2] > 1} == {1}
    assert max(shape[1] for shape in seen if shape[2] == 1) == LENGTH


@pytest.mark.parametrize(
    ("fitting", "micro_batch_size", "expected"),
    [(4, None, 4), (3, None, 2), (2, None, 2), (1, None, 1), (0, None, 1), (1, 4, 4)],
)
def test_rows_of_a_pass(sure_policy, reward, prompts, monkeypatch, fitting, micro_batch_size, expected):
    """Of mini-batches of 4, cut evenly; who sets `micro_batch_size` is obeyed."""
    policy = sure_policy()  # trains its output layer
    fill(monkeypatch, policy, fitting)
    config = PPOConfig(**CONFIG, micro_batch_size=micro_batch_size, completion_tokens=(3, LENGTH))
    assert PPOTrainer(policy, reward, prompts, config).networks.rows_at_once == expected


def test_small_vocabularies_are_left_alone(sure_policy, reward, prompts):
    """50,257 words, mini-batches of 16 completions of 30 tokens: logits of 96 MB."""
    policy = sure_policy("llama", "fresh")
    policy.model.get_base_model().lm_head = torch.nn.Linear(32, 50257, bias=False, device="meta")
    assert output_layer.rows_that_fit(policy.model, 30) == 44


@pytest.mark.parametrize(("fitting", "expected"), [(8, 8), (5, 4), (3, 2), (0, 2)])
def test_pairs_stay_together(sure_policy, monkeypatch, fitting, expected):
    policy = sure_policy()
    fill(monkeypatch, policy, fitting)
    config = OnlineDPO(batch_size=8, mini_batch_size=8, completion_tokens=(3, LENGTH))
    assert config.rows_together == 2
    assert Networks(policy, config, 0).rows_at_once == expected
