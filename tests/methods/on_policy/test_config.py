"""Single options: sampling distributions by hand, drawing, starting values, and micro-batches that change nothing."""

import dataclasses
import math
import re

import pytest
import torch

from alignbench.errors import TrainingError
from alignbench.methods.on_policy import rollout
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.networks import value_head
from alignbench.methods.on_policy.rollout import policy_distribution, truncation
from alignbench.methods.on_policy.trainer import PPOTrainer, Targets
from alignbench.models.forward import token_logprobs
from alignbench.records import Decoding
from alignbench.runtime.randomness import generator

CONFIG = PPOConfig(
    learning_rate=2e-3, batch_size=8, mini_batch_size=4, ppo_epochs=2, completion_tokens=(2, 7), kl_target=None
)
SEED = 3
# Two positions over three words; the first word is the end of sequence.
LOGITS = torch.tensor([[[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]]]).log()


def score(prompts, completions):
    return [len(text.split()) / 3 - text.count("good") for text in completions]


def build(policy, reward, prompts, **changes):
    return PPOTrainer(policy, reward, prompts, dataclasses.replace(CONFIG, **changes), seed=SEED)


def test_policy_distribution_by_hand():
    """At temperature 1/2 probabilities are squared; no end of sequence at the first position; top-k is left out."""
    decoding = Decoding(max_new_tokens=2, min_new_tokens=1, temperature=0.5, top_k=1, top_p=0.5)
    found = policy_distribution(LOGITS, decoding, eos_id=0).softmax(-1)
    expected = torch.tensor([[[0.0, 9 / 13, 4 / 13], [36 / 46, 9 / 46, 1 / 46]]])
    torch.testing.assert_close(found, expected)
    without_an_end = policy_distribution(LOGITS, decoding, eos_id=None).softmax(-1)
    torch.testing.assert_close(without_an_end[0, 0], torch.tensor([25 / 38, 9 / 38, 4 / 38]))
    assert policy_distribution(LOGITS.to(torch.bfloat16), decoding, 0).dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "kept", "logprobs"),
    [
        ({"top_k": 2}, [[1, 1, 0], [1, 1, 0]], [math.log(3 / 8), math.log(6 / 9)]),
        ({"top_p": 0.55}, [[1, 1, 0], [1, 0, 0]], [math.log(3 / 8), 0.0]),
        ({"top_p": 0.5}, [[1, 0, 0], [1, 0, 0]], [math.log(3 / 8), 0.0]),  # what was drawn counts in any case
        ({"top_k": 2, "top_p": 0.65}, [[1, 1, 0], [1, 0, 0]], [math.log(3 / 8), 0.0]),  # top-p of what top-k left
        ({"top_k": 3}, None, [math.log(0.3), math.log(0.6)]),
        ({}, None, [math.log(0.3), math.log(0.6)]),
    ],
)
def test_truncation_by_hand(changes, kept, logprobs):
    """Temperature and minimal length have had their effect before: they must not have it twice."""
    drawn = torch.tensor([[1, 0]])
    decoding = Decoding(max_new_tokens=2, min_new_tokens=2, temperature=0.5, **changes)
    support = truncation(LOGITS, decoding)
    assert (support is None) if kept is None else torch.equal(support[0], torch.tensor(kept).bool())
    torch.testing.assert_close(token_logprobs(LOGITS, drawn, support=support), torch.tensor([logprobs]))


def test_new_log_probabilities_are_those_of_the_old_support():
    """The ratio compares two distributions over the same words, also where the new policy would keep others."""
    drawn, decoding = torch.tensor([[1, 0]]), Decoding(max_new_tokens=2, top_k=2)
    support = truncation(LOGITS, decoding)
    new = torch.tensor([[[0.1, 0.2, 0.7], [0.2, 0.2, 0.6]]]).log()
    expected = torch.tensor([[math.log(2 / 3), math.log(0.5)]])
    torch.testing.assert_close(token_logprobs(new, drawn, support=support), expected)


def test_limits_are_drawn_from_the_whole_range(tiny_policy, reward, prompts):
    trainer = build(tiny_policy(), reward, prompts)
    lengths = set()
    for step in range(1, 13):
        lengths |= {len(c.token_ids) for c in trainer.sample(step)[1] if c.finish_reason == "length"}
    assert lengths == {2, 3, 4, 5, 6, 7}


def test_sampling_options_reach_the_sampler(sure_policy, reward, prompts):
    free = build(sure_policy(), reward, prompts, batch_size=64, mini_batch_size=64)
    assert any(c.finish_reason == "eos" and len(c.token_ids) < 4 for c in free.sample(1)[1])
    options = {"min_completion_tokens": 4, "completion_tokens": (4, 4), "batch_size": 64, "mini_batch_size": 64}
    fixed = build(sure_policy(), reward, prompts, **options)
    assert {(len(c.token_ids), c.finish_reason) for c in fixed.sample(1)[1]} == {(4, "length")}
    cold = build(sure_policy(), reward, prompts, temperature=1e-3).sample(1)
    assert build(sure_policy(), reward, prompts, top_k=1).sample(1) == cold
    assert build(sure_policy(), reward, prompts, top_p=1e-6).sample(1) == cold
    words = {c.text.split()[-1] for c in free.sample(1)[1] if c.text}
    stop = sorted(words)[0]
    stopped = build(sure_policy(), reward, prompts, batch_size=64, mini_batch_size=64, stop_strings=(stop,))
    assert all((c.finish_reason == "stop") == (stop in c.text) for c in stopped.sample(1)[1])


def test_value_heads(tiny_policy):
    """Zero; or normal with standard deviation 1 / sqrt(33), a function of the seed and of no global generator."""
    model, state = tiny_policy().model, torch.get_rng_state()
    drawn = torch.cat([value_head(model, "normal", seed).weight for seed in range(60)])
    assert drawn.std().item() == pytest.approx(1 / math.sqrt(33), rel=0.05)
    assert drawn.mean().item() == pytest.approx(0.0, abs=0.02)
    assert torch.equal(value_head(model, "normal", 7).weight[0], drawn[7])
    assert not value_head(model, "zero", 7).weight.any()
    assert not value_head(model, "normal", 7).bias.any()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_head_is_drawn_by_the_seed(tiny_policy, reward, prompts):
    trainer = build(tiny_policy(), reward, prompts, value_init="normal")
    assert torch.equal(trainer.value_head.weight, value_head(trainer.model, "normal", SEED).weight)


@pytest.mark.parametrize(
    ("value_model", "moved"), [("separate", {"value_head", "value_model"}), ("head", {"value_head", "policy"})]
)
def test_the_value_loss_of_a_separate_model_leaves_the_policy_alone(
    tiny_policy, reward, prompts, monkeypatch, value_model, moved
):
    def only_returns(_, rollout):
        return Targets(torch.zeros_like(rollout.values), torch.ones_like(rollout.values))

    monkeypatch.setattr(PPOTrainer, "targets", only_returns)
    trainer = build(tiny_policy(), reward, prompts, value_model=value_model, value_init="normal")
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    trainer.train_step()
    changed = {name for name, p in trainer.parameters.items() if not torch.equal(p, before[name])}
    assert {name.split(".")[0] for name in changed} == moved


def shifted_measure(monkeypatch, by):
    from alignbench.methods.on_policy import trainer as module

    def shifted(*arguments):
        rollout = measure(*arguments)
        return dataclasses.replace(rollout, logprobs=rollout.logprobs + by)

    measure = module.measure
    monkeypatch.setattr(module, "measure", shifted)


@pytest.mark.parametrize("early_stop_kl", [None, 1e-3])
def test_a_first_ratio_that_is_not_1_stops(tiny_policy, reward, prompts, monkeypatch, early_stop_kl):
    """Old log-probabilities that are all off by 0.2: the ratio is exp(-0.2)."""
    shifted_measure(monkeypatch, by=0.2)
    trainer = build(tiny_policy(), reward, prompts, early_stop_kl=early_stop_kl)
    with pytest.raises(TrainingError, match=r"first probability ratio is 0\.8187"):
        trainer.train_step()


def test_early_stop_never_takes_the_first_update(tiny_policy, reward, prompts, monkeypatch):
    shifted_measure(monkeypatch, by=4e-4)
    assert build(tiny_policy(), reward, prompts, early_stop_kl=1e-12).train_step()["policy/n_updates"] == 1


@pytest.mark.parametrize("whiten_over", ["batch", "mini_batch"])
def test_a_mini_batch_of_nothing_but_an_unscored_completion_is_left_out(
    tiny_policy, reward, prompts, monkeypatch, whiten_over
):
    monkeypatch.setattr(rollout, "MAX_UNSCORED", 0.5)
    first = int(generator(SEED, "mini-batches", 0, 0).permutation(8)[0])

    def with_hole(asked, completions):
        return [None if i == first else value for i, value in enumerate(reward(asked, completions))]

    metrics = build(tiny_policy(), with_hole, prompts, whiten_over=whiten_over, mini_batch_size=1).train_step()
    assert metrics["objective/n_unscored"] == 1
    assert metrics["policy/n_updates"] == 2 * 7


MICRO_CASES = [
    {"whiten_over": "mini_batch", "whiten_rewards": True},
    {"top_k": 5, "top_p": 0.9, "min_completion_tokens": 1},
    {"kl_placement": "loss", "kl_estimator": "exact", "shared_layers": 1},
    {"kl_placement": "loss", "kl_estimator": "k2", "early_stop_kl": 5e-3},
    {"value_model": "separate", "value_init": "normal", "gradient_checkpointing": True},
    {"reward_scaling": "mean_std", "kl_estimator": "k3", "length_penalty": 0.1},
]


@pytest.mark.parametrize("changes", MICRO_CASES)
def test_micro_batches_give_the_same_update(sure_policy, prompts, changes):
    whole = build(sure_policy(), score, prompts, **changes)
    parts = build(sure_policy(), score, prompts, micro_batch_size=1, **changes)
    first, second = whole.train_step(), parts.train_step()
    assert whole.cost.optimizer_steps == parts.cost.optimizer_steps
    for key, value in first.items():
        assert key.startswith(("time/", "memory/")) or second[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key
    for name, parameter in whole.parameters.items():
        torch.testing.assert_close(parts.parameters[name], parameter, rtol=1e-4, atol=5e-6)


@pytest.mark.parametrize(
    ("changes", "caution"),
    [
        ({}, None),
        ({"kl_placement": "loss", "kl_estimator": "k2"}, None),
        ({"kl_placement": "loss", "kl_estimator": "exact"}, None),
        ({"kl_coef": 0.0}, "kl_coef is 0, and no kl_target changes that"),
        ({"kl_estimator": "exact"}, "kl_estimator exact in the reward hardly holds the policy"),
        ({"kl_estimator": "k2"}, "kl_estimator k2 in the reward hardly holds the policy"),
        ({"kl_estimator": "k3"}, "kl_estimator k3 in the reward hardly holds the policy"),
        ({"kl_placement": "loss", "kl_estimator": "k3"}, r"k3 in the loss has the gradient of KL\(ref \|\| pi\)"),
    ],
)
def test_what_is_allowed_and_probably_not_meant_is_said(tiny_policy, reward, prompts, caplog, changes, caution):
    build(tiny_policy(), reward, prompts, **changes)
    assert (re.search(caution, caplog.text) is not None) if caution else not caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_placement": "loss"}, "kl_estimator k1 in the loss has a gradient of mean 0"),
        ({"min_completion_tokens": 3}, "min_completion_tokens 3 must be at most the shortest limit, 2"),
        ({"mini_batch_size": 3}, "mini_batch_size 3 must divide batch_size 8"),
        ({"micro_batch_size": 3}, "micro_batch_size 3 must divide mini_batch_size 4"),
        ({"completion_tokens": (7, 2)}, r"completion_tokens \[7, 2\] must be \[shortest, longest\]"),
        ({"kl_target": 1.0, "kl_horizon": 1.6}, "kl_horizon 1.6 must be more than a fifth of batch_size 8"),
        ({"stop_strings": ("",)}, "stop_strings must not be empty"),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)
    dataclasses.replace(CONFIG, kl_target=1.0, kl_horizon=1.6, kl_controller="log")
