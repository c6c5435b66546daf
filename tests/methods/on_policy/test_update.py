"""Whole PPO steps against an oracle: a slow float64 loop, one sequence at a time, with AdamW written out.

The oracle shares no code with the trainer but the sampling, and the order of the mini-batches: it takes the model's
own logits and hidden states of the bare sequence, without padding, masks or given positions. It is built from the
policy before the trainer is, and keeps its own running statistics and KL coefficient over the steps; before every
step it takes over the trained weights and AdamW's moments, so that rounding does not pile up.
"""

import dataclasses

import pytest
from fixtures.update_oracle import SEED, Oracle, distance

from alignbench.methods.on_policy import rollout
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.trainer import PPOTrainer

# Every option of the plain recipe away from its default and from values that would hide it.
CONFIG = PPOConfig(
    learning_rate=2e-3,
    batch_size=8,
    mini_batch_size=4,
    micro_batch_size=2,
    ppo_epochs=3,
    completion_tokens=(2, 7),
    temperature=0.7,
    kl_coef=0.3,
    kl_target=None,
    gamma=0.9,
    gae_lambda=0.5,
    clip_range=0.05,
    value_clip_range=0.03,
    value_coef=0.3,
    whiten_rewards=True,
    max_grad_norm=0.5,
    weight_decay=0.1,
    adam_epsilon=1e-6,
)
MEASURED = {"kl_estimator", "min_completion_tokens", "shared_layers", "value_init", "stop_strings"}
"""Options that the measuring of a rollout reads."""


def score(prompts, completions):
    return [len(text.split()) / 3 - text.count("good") for text in completions]


def score_with_a_hole(prompts, completions):
    return [None if i == 2 else value for i, value in enumerate(score(prompts, completions))]


def of_both(*cases, plain=True, **named):
    """Cases under fast execution, which has what it captured in every step but the first, and under plain execution.

    Where a pass must be whole, `fast` is plain already. What is not about measuring a rollout comes after it, and does
    not know how it was measured: such a case is tried under plain execution by `make slow` alone.
    """
    for name, changes in {**{f"{i}": one for i, one in enumerate(cases)}, **named}.items():
        yield pytest.param({**changes, "execution": "fast"}, id=f"{name}-fast")
        if dataclasses.replace(CONFIG, **changes).fuses:
            marks = () if plain or MEASURED.intersection(changes) else pytest.mark.slow
            yield pytest.param({**changes, "execution": "plain"}, id=f"{name}-plain", marks=marks)


def compare(policy, prompts, config, *, n_steps=2, reward=score):
    """Runs the trainer beside the oracle; returns the trainer and what it logged."""
    oracle = Oracle(policy, reward, config, n_steps)
    trainer = PPOTrainer(policy, reward, prompts, config, seed=SEED)
    gradients, logged = [], []
    step, plain_step = {}, trainer.optimizer.step

    def spied_step():
        gradients.append({name: p.grad.clone() for name, p in trainer.parameters.items()})
        plain_step()

    trainer.optimizer.step = spied_step

    def begin():
        oracle.take_over(trainer)
        step["before"] = {name: p.detach().double().clone() for name, p in trainer.parameters.items()}
        step["gradient"], step["logged"] = oracle.predict(*trainer.sample(trainer.step + 1))
        gradients.clear()

    def check(number, metrics):
        assert set(gradients[0]) == set(step["gradient"])
        assert distance(gradients[0], step["gradient"]) < 1e-5
        moved = {name: value - step["before"][name] for name, value in oracle.parameters.items()}
        found = {name: p.detach() - step["before"][name] for name, p in trainer.parameters.items()}
        assert distance(found, moved) < 3e-4
        if trainer.captures and number > 1:
            step["logged"].pop("objective/kl_exact")
        assert {key: metrics[key] for key in step["logged"]} == pytest.approx(step["logged"], rel=1e-4, abs=1e-6)
        assert trainer.controller.coef == pytest.approx(oracle.kl_coef, rel=1e-6)
        logged.append(metrics)
        if number < n_steps:
            begin()

    begin()
    trainer.train(n_steps, log=check)
    return trainer, logged


@pytest.mark.parametrize("changes", of_both({}))
def test_the_plain_recipe(tiny_policy, prompts, changes):
    _, logged = compare(tiny_policy(), prompts[:4], dataclasses.replace(CONFIG, **changes))
    assert logged[1]["policy/clip_fraction"] > 0
    assert logged[1]["value/clip_fraction"] > 0
    assert abs(logged[1]["objective/kl"]) > 1e-3
    assert logged[1]["tokens/completion_min"] < logged[1]["tokens/completion_max"]  # padding is at work


SHORT = dataclasses.replace(CONFIG, ppo_epochs=2)
LOSS = {"kl_placement": "loss", "kl_coef": 3.0}
LINEAR = {"kl_target": 0.05, "kl_horizon": 20.0}
CASES = {
    "k2": {"kl_estimator": "k2", **LINEAR},
    "k3, top-k, log controller": {"kl_estimator": "k3", "top_k": 5, **LINEAR, "kl_controller": "log"},
    "exact, top-p, minimal length": {"kl_estimator": "exact", "top_p": 0.6, "min_completion_tokens": 2},
    "k2 in the loss, values not clipped": {**LOSS, "kl_estimator": "k2", "value_clip_range": None},
    "k3 in the loss, truncated": {
        **LOSS, "kl_estimator": "k3", "top_k": 9, "top_p": 0.8, "min_completion_tokens": 2, **LINEAR,
    },
    "exact in the loss, whitened by mini-batch": {
        **LOSS, "kl_estimator": "exact", "whiten_over": "mini_batch", "min_completion_tokens": 1, "top_k": 4,
    },
    "separate value model": {"value_model": "separate", "value_init": "normal", "gradient_checkpointing": True},
    "separate value model, exact in the loss": {
        **LOSS, "kl_estimator": "exact", "value_model": "separate", **LINEAR, "kl_controller": "log",
    },
    "values with a rate of their own": {"value_learning_rate": 1e-4},
    "separate values with a rate of their own": {"value_learning_rate": 7e-3, "value_model": "separate"},
    "value head drawn": {"value_init": "normal", "adam_betas": (0.5, 0.7), "max_grad_norm": None},
    "penalties": {"missing_eos_penalty": 0.7, "length_penalty": 0.11, "stop_strings": ("sings", "cat"), "top_k": 6},
    "reward by its deviation, cut": {"reward_scaling": "std", "reward_clip": 0.4, "length_penalty": -0.05},
    "reward by its deviation from the mean": {"reward_scaling": "mean_std", "whiten_rewards": False},
    "whitened by mini-batch": {"whiten_over": "mini_batch"},
    "mini-batch of mean advantages": {"whiten_over": "mini_batch", "whiten_advantages": False},
    "nothing whitened": {"whiten_rewards": False, "whiten_advantages": False, "gamma": 1.0, "gae_lambda": 1.0},
    "early stop": {"early_stop_kl": 8e-3},
    "shared layer": {"shared_layers": 1},
}  # fmt: skip


@pytest.mark.parametrize("changes", of_both(plain=False, **CASES))
def test_options(sure_policy, prompts, changes):
    trainer, logged = compare(sure_policy(), prompts, dataclasses.replace(SHORT, **changes))
    if "early_stop_kl" in changes:
        assert all(1 < metrics["policy/n_updates"] < 4 for metrics in logged)
        assert trainer.cost.optimizer_steps == sum(metrics["policy/n_updates"] for metrics in logged)
    if "stop_strings" in changes:
        assert 0 < logged[0]["tokens/truncation_rate"] < 1 - logged[0]["tokens/eos_rate"]


EXPECTED_RATES = {"constant": [1e-3, 2e-3, 2e-3], "linear": [1e-3, 2e-3, 1e-3], "cosine": [1e-3, 2e-3, 1e-3]}


@pytest.mark.parametrize("changes", of_both(*({"schedule": one} for one in EXPECTED_RATES), plain=False))
def test_schedules(sure_policy, prompts, changes):
    config = dataclasses.replace(CONFIG, warmup_steps=1, ppo_epochs=1, **changes)
    _, logged = compare(sure_policy(), prompts, config, n_steps=3)
    expected = EXPECTED_RATES[changes["schedule"]]
    assert [metrics["policy/learning_rate"] for metrics in logged] == pytest.approx(expected)


@pytest.mark.parametrize("adapter", ["fresh", "trained"])
@pytest.mark.parametrize("changes", of_both({}, {**LOSS, "kl_estimator": "exact", "shared_layers": 1}))
def test_adapters(sure_policy, prompts, adapter, changes):
    """The reference is the policy as it came: without a fresh adapter, and with one that was trained before."""
    compare(sure_policy("llama", adapter), prompts, dataclasses.replace(SHORT, learning_rate=1e-2, **changes))


@pytest.mark.parametrize("changes", of_both({}, {"shared_layers": 1, "value_model": "separate", "top_p": 0.7}))
def test_another_family(sure_policy, prompts, changes):
    compare(sure_policy("llama"), prompts, dataclasses.replace(SHORT, **changes))


@pytest.mark.parametrize(
    "changes", of_both({}, {"whiten_over": "mini_batch"}, {"whiten_advantages": False}, plain=False)
)
def test_an_unscored_completion_is_as_if_it_had_not_been_drawn(sure_policy, prompts, monkeypatch, changes):
    monkeypatch.setattr(rollout, "MAX_UNSCORED", 0.5)
    config = dataclasses.replace(SHORT, reward_scaling="mean_std", **changes)
    compare(sure_policy(), prompts, config, reward=score_with_a_hole)
