"""Learning: tasks whose best policy is known, with every way of holding the policy near the reference."""

import dataclasses
import math

import pytest
import torch
from fixtures.cases import few_of

from alignbench.methods.grpo import GRPO
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.pool import PoolTrainer
from alignbench.methods.on_policy.trainer import OnPolicyTrainer, PPOTrainer
from alignbench.methods.online_dpo import OnlineDPO
from alignbench.methods.quark import Quark
from alignbench.methods.raft import RAFT
from alignbench.methods.reinforce_pp import ReinforcePlusPlus
from alignbench.methods.rloo import RLOO
from alignbench.models.control_tokens import ControlledModel, new_controls
from alignbench.models.loading import load_language_model
from alignbench.records import Prompt

PROMPT = Prompt("p", "the dog")


@pytest.fixture
def tiny_policy(checkpoints):
    """Makes the policy of one layer: what learning is to reach does not depend on their number."""
    return lambda: load_language_model(str(checkpoints / "one_layer"))


def probability_of_good(policy):
    with torch.no_grad():
        logits = policy.model(torch.tensor(policy.encode_prompts([PROMPT]))).logits[0, -1]
    return logits.softmax(-1)[policy.tokenizer.convert_tokens_to_ids("good")].item()


def forward_optimum(p, kl_coef):
    """Maximises pi(good) - kl_coef * KL(pi || ref): pi ~ ref * exp(reward / kl_coef)."""
    weight = p * math.exp(1 / kl_coef)
    return weight / (weight + 1 - p)


def backward_optimum(p, kl_coef):
    """Maximises pi(good) - kl_coef * KL(ref || pi): the root of 1 - c * p / pi + c * (1 - p) / (1 - pi)."""
    low, high = p, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        slope = 1 + kl_coef * p / middle - kl_coef * (1 - p) / (1 - middle)
        low, high = (middle, high) if slope > 0 else (low, middle)
    return low


def unheld_optimum(p, kl_coef):
    """Maximises pi(good) alone."""
    return 1.0


IN_LOSS = {"kl_placement": "loss", "whiten_advantages": False}  # whitening would change the reward's weight there


CONFIG = PPOConfig(
    learning_rate=1.5e-2,
    batch_size=96,
    mini_batch_size=96,
    ppo_epochs=3,
    completion_tokens=(1, 1),
    kl_target=None,
    value_coef=0.5,
    schedule="linear",
    gae_lambda=1.0,
)


def pays(_, completions):
    return [float(text.split() == ["good"]) for text in completions]


@pytest.mark.parametrize(
    ("kl_coef", "changes", "optimum"),
    [
        (0.3, {}, forward_optimum),
        pytest.param(0.5, {}, forward_optimum, marks=pytest.mark.slow),
        (0.3, {**IN_LOSS, "kl_estimator": "k2"}, forward_optimum),
        (0.3, {**IN_LOSS, "kl_estimator": "exact"}, forward_optimum),
        pytest.param(0.5, {**IN_LOSS, "kl_estimator": "exact"}, forward_optimum, marks=pytest.mark.slow),
        (0.3, {**IN_LOSS, "kl_estimator": "k3"}, backward_optimum),
        (0.3, {"kl_estimator": "exact"}, unheld_optimum),  # the trap that PPOConfig.cautions names
    ],
)
def test_the_known_optimum_is_reached(tiny_policy, kl_coef, changes, optimum):
    """One token, `good` pays 1, from a probability of 3 %: more KL penalty means less of it, by a known amount.

    Where training ends is a matter of draws; it ends nearer to its optimum than to that of any other objective.
    """
    policy = tiny_policy()
    start = probability_of_good(policy)
    expected = optimum(start, kl_coef)
    others = [
        other(start, kl_coef) for other in (forward_optimum, backward_optimum, unheld_optimum) if other != optimum
    ]
    assert expected > 0.15
    PPOTrainer(policy, pays, [PROMPT], dataclasses.replace(CONFIG, kl_coef=kl_coef, **changes)).train(20)
    reached = probability_of_good(policy)
    assert abs(reached - expected) < min(abs(reached - other) for other in (start, *others))


WITHOUT_VALUES = {
    **{"learning_rate": 1.5e-2, "batch_size": 96, "mini_batch_size": 96, "epochs": 3, "completion_tokens": (1, 1)},
    **{"schedule": "linear", "kl_coef": 0.3},
}


@pytest.mark.parametrize(
    ("kind", "changes", "optimum"),
    [
        (RLOO, {}, forward_optimum),
        (GRPO, {"scale_rewards": "none"}, forward_optimum),
        (GRPO, {"scale_rewards": "none", "kl_placement": "loss", "kl_estimator": "exact"}, forward_optimum),
        (ReinforcePlusPlus, {}, forward_optimum),
        (RAFT, {"kl_coef": 0.0, "mini_batch_size": 12}, unheld_optimum),
        (OnlineDPO, {"kl_coef": 0.0, "mini_batch_size": 24, "completions_per_prompt": 8}, unheld_optimum),
    ],
    ids=["rloo", "grpo", "grpo, KL in the loss", "reinforce++", "raft", "online dpo"],
)
def test_so_do_methods_without_values(tiny_policy, kind, changes, optimum):
    """What does not divide by a deviation works towards the same optimum as PPO; who imitates the best, towards 1."""
    policy, method = tiny_policy(), kind(**(WITHOUT_VALUES | changes))
    start = probability_of_good(policy)
    OnPolicyTrainer(policy, pays, [PROMPT], method, method).train(20)
    others = [other(start, 0.3) for other in (forward_optimum, backward_optimum, unheld_optimum) if other != optimum]
    reached, expected = probability_of_good(policy), optimum(start, 0.3)
    assert abs(reached - expected) < min(abs(reached - other) for other in (start, *others))


def test_behind_the_best_token_quark_is_paid_more_than_behind_the_worst(tiny_policy):
    policy, method = tiny_policy(), Quark(**{**WITHOUT_VALUES, "kl_coef": 0.05}, quantiles=3)
    start = probability_of_good(policy)
    controlled = ControlledModel(policy, new_controls(policy, 3, seed=0))
    PoolTrainer(controlled, pays, [PROMPT], method, method).train(20)
    found = []
    for control in (0, 2):
        controlled.control = control
        found.append(probability_of_good(controlled))
    worst, best = found
    assert worst < start < 5 * start < best


LEARNS = {
    "top-k": ("gpt_neo", {"top_k": 25, "whiten_over": "mini_batch"}),
    "fixed length": (
        "gpt_neo", {"min_completion_tokens": 3, "value_clip_range": None, "value_model": "separate"},
    ),
    "shared layer": ("llama", {"shared_layers": 1, "schedule": "linear", "reward_scaling": "std"}),
    "mixed precision": ("gpt_neo", {"kl_placement": "loss", "kl_estimator": "exact", "mixed_precision": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", few_of(LEARNS, ["top-k", "shared layer"]))
def test_reward_goes_up(tiny_policy, sure_policy, reward, prompts, name):
    """`good` pays, nothing else does: a share of it near 1 in 20 must come to dominate."""
    (family, changes), rewards = LEARNS[name], []
    config = PPOConfig(
        learning_rate=1e-2, batch_size=32, mini_batch_size=16, ppo_epochs=2, completion_tokens=(3, 3), kl_coef=0.01,
        kl_target=None, value_coef=0.5,
    )  # fmt: skip
    policy = tiny_policy() if family == "gpt_neo" else sure_policy(family)
    trainer = PPOTrainer(policy, reward, prompts, dataclasses.replace(config, **changes))
    trainer.train(20, log=lambda _, metrics: rewards.append(metrics["objective/reward"]))
    assert rewards[0] < 0.2
    assert sum(rewards[-5:]) / 5 > 0.75 / 2  # most of three words are `good`
