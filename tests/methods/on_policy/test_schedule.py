"""The learning rate over a run, by hand and against transformers' schedules."""

import dataclasses

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from alignbench.errors import TrainingError
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.schedule import learning_rate_factor
from alignbench.methods.on_policy.trainer import PPOTrainer

CONFIG = PPOConfig(batch_size=4, mini_batch_size=4, ppo_epochs=1, completion_tokens=(2, 3), warmup_steps=3)


def factors(n_steps, schedule, warmup_steps):
    return [learning_rate_factor(step, n_steps, schedule, warmup_steps) for step in range(n_steps)]


def test_by_hand():
    assert factors(4, "constant", 0) == [1, 1, 1, 1]
    assert factors(4, "linear", 0) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert factors(4, "cosine", 0) == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert factors(5, "constant", 3) == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert factors(5, "linear", 1) == pytest.approx([0.5, 1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("warmup_steps", [0, 3])
@pytest.mark.parametrize(
    ("schedule", "oracle"),
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
def test_against_transformers(schedule, oracle, warmup_steps):
    """Behind the warm-up, which starts at 0 there: a PPO step is too dear to be spent on that."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    (expected,) = oracle(optimizer, warmup_steps, 11).lr_lambdas
    for step in range(warmup_steps, 11):
        assert learning_rate_factor(step, 11, schedule, warmup_steps) == pytest.approx(expected(step))


def test_a_run_shorter_than_its_warm_up():
    assert factors(2, "cosine", 5) == pytest.approx([1 / 6, 2 / 6])
    assert factors(3, "linear", 3) == pytest.approx([0.25, 0.5, 0.75])


def test_a_single_step_knows_no_end(tiny_policy, reward, prompts):
    trainer = PPOTrainer(tiny_policy(), reward, prompts, dataclasses.replace(CONFIG, schedule="linear"))
    with pytest.raises(TrainingError, match=r"schedule: linear .* train\(n_steps\)"):
        trainer.train_step()
    warm = PPOTrainer(tiny_policy(), reward, prompts, CONFIG)
    rates = [warm.train_step()["policy/learning_rate"] / CONFIG.learning_rate for _ in range(4)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0])
