"""Interrupt and resume with every part of the state in use, and checkpoints that are refused."""

import dataclasses
import json
import random

import numpy as np
import pytest
import torch

from alignbench.errors import TrainingError
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.models.adapters import Lora
from alignbench.models.fast.layers import FastLinear
from alignbench.records import Prompt

CONFIG = PPOConfig(
    learning_rate=2e-3,
    batch_size=8,
    mini_batch_size=4,
    ppo_epochs=2,
    completion_tokens=(2, 5),
    kl_coef=0.1,
    kl_target=1.0,
    kl_horizon=50.0,
    kl_controller="log",
    schedule="linear",
    warmup_steps=1,
    checkpoint_every=1,
)
RUNS = {
    "everything, full weights": (
        None,
        {"reward_scaling": "mean_std", "value_model": "separate", "shared_layers": 1, "value_init": "normal"},
    ),
    "everything, trained adapter": (
        "trained",
        {
            "reward_scaling": "std", "reward_clip": 1.0, "schedule": "cosine", "kl_placement": "loss",
            "kl_estimator": "exact", "whiten_over": "mini_batch", "early_stop_kl": 0.01, "top_k": 8,
            "gradient_checkpointing": True,
        },
    ),
    "mixed precision": ("fresh", {"mixed_precision": True, "reward_scaling": "std", "kl_controller": "linear"}),
}  # fmt: skip


class KilledError(Exception):
    pass


def noisy(prompts, completions):
    """A reward that draws from the global generators, in a way that leaves half a draw in two of them."""
    noise = random.gauss(0, 1) + np.random.normal() + torch.randn(1).item()  # noqa: NPY002
    return [noise + len(text.split()) + random.random() for text in completions]


def seed_globals(seed):
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def build(policy, prompts, **changes):
    return PPOTrainer(policy, noisy, prompts, dataclasses.replace(CONFIG, **changes), seed=5)


@pytest.mark.parametrize(("adapter", "changes"), RUNS.values(), ids=RUNS.keys())
def test_a_killed_run_goes_on_bit_for_bit(sure_policy, prompts, tmp_path, adapter, changes):
    logged, resumed_log = {}, {}

    def dies_in_step_4(step, _):
        if step == 4:
            raise KilledError

    seed_globals(1)
    straight = build(sure_policy("llama", adapter), prompts, **changes)
    seed_globals(2)
    straight.train(6, log=logged.__setitem__)
    killed = build(sure_policy("llama", adapter), prompts, **changes)
    seed_globals(2)
    with pytest.raises(KilledError):
        killed.train(6, log=dies_in_step_4, checkpoints=tmp_path)
    resumed = build(sure_policy("llama", adapter), prompts, **changes)
    seed_globals(3)
    resumed.train(6, log=resumed_log.__setitem__, checkpoints=tmp_path)
    assert sorted(resumed_log) == [4, 5, 6]
    for step, metrics in resumed_log.items():
        for key, value in metrics.items():
            assert key.startswith(("time/", "memory/")) or value == logged[step][key], (step, key)
    for name, parameter in straight.parameters.items():
        assert torch.equal(parameter, resumed.parameters[name]), name
    assert resumed.controller.coef == straight.controller.coef != CONFIG.kl_coef
    assert resumed.moments == straight.moments
    assert (resumed.moments.n == 6 * 8) == ("reward_scaling" in changes)
    assert resumed.cost.optimizer_steps == straight.cost.optimizer_steps


@pytest.mark.gpu
def test_a_killed_run_goes_on_on_a_gpu(sure_policy, prompts, tmp_path):
    """With the device's generator too, of which a reward draws; there sums are not the same to the bit."""

    def reward(prompts, completions):
        return [10 * torch.randn(1, device="cuda").item() + len(text.split()) for text in completions]

    def run(n_steps, seed, **options):
        policy = sure_policy("llama")
        policy.model.cuda()
        trainer, logged = PPOTrainer(policy, reward, prompts, CONFIG, seed=5), {}
        torch.manual_seed(seed)

        def dies(step, metrics):
            logged[step] = metrics
            if step == n_steps:
                raise KilledError

        with pytest.raises(KilledError):
            trainer.train(6, log=dies, **options)
        return logged

    straight = run(5, 2)
    run(3, 2, checkpoints=tmp_path)
    resumed = run(5, 3, checkpoints=tmp_path)
    assert sorted(resumed) == [3, 4, 5]
    for step, metrics in resumed.items():
        for name in ("objective/reward", "objective/kl"):
            assert metrics[name] == pytest.approx(straight[step][name], rel=1e-3, abs=1e-4), (step, name)


def test_a_resumed_run_keeps_its_kernels(sure_policy, prompts, tmp_path, take_kernel, monkeypatch):
    """Those of the checkpoint, though this machine would take others, or the environment names one."""
    taken = []
    multiplied = FastLinear.multiplied
    monkeypatch.setattr(
        FastLinear, "multiplied", lambda layer, x, kernel: taken.append(kernel) or multiplied(layer, x, kernel)
    )
    trainers = {}
    for name, n_steps in (("straight", 4), ("killed", 2), ("resumed", 4)):
        take_kernel("linear" if name == "resumed" else "weight_first")
        trainers[name] = build(sure_policy("llama"), prompts, checkpoint_every=2, schedule="constant")
        seed_globals(2)
        directory = tmp_path / ("straight" if name == "straight" else "killed")
        taken.clear()
        trainers[name].train(n_steps, checkpoints=directory)
        assert set(taken) == {"weight_first"}
    for name, parameter in trainers["straight"].parameters.items():
        assert torch.equal(parameter, trainers["resumed"].parameters[name]), name


def assert_refused(trainer, directory, message):
    """The run stops with the message, and nothing was changed before."""
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    seed_globals(9)
    with pytest.raises(TrainingError, match=message):
        trainer.train(4, checkpoints=directory)
    assert all(torch.equal(before[name], p) for name, p in trainer.parameters.items())
    assert not trainer.optimizer.state
    assert (trainer.step, trainer.controller.coef, trainer.moments.n) == (0, CONFIG.kl_coef, 0)
    after = random.random()
    seed_globals(9)
    assert after == random.random()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_coef": 0.1, "gamma": 0.9}, r"is of gamma 1\.0 \(this run: 0\.9\); use --force"),
        ({"top_k": 3, "kl_estimator": "k3"}, r"is of kl_estimator k1 \(this run: k3\), top_k 0 \(this run: 3\)"),
        ({"completion_tokens": (2, 6)}, r"completion_tokens \[2, 5\] \(this run: \[2, 6\]\)"),
    ],
)
def test_another_config_is_refused_by_the_names_that_differ(tiny_policy, prompts, tmp_path, changes, message):
    build(tiny_policy(), prompts).train(4, checkpoints=tmp_path)
    assert_refused(build(tiny_policy(), prompts, **changes), tmp_path, message)


def test_a_schedule_that_ends_cannot_be_prolonged(tiny_policy, prompts, tmp_path):
    build(tiny_policy(), prompts).train(2, checkpoints=tmp_path)
    assert_refused(build(tiny_policy(), prompts), tmp_path, r"n_steps 2 \(this run: 4\)")


def test_a_constant_schedule_can_be_prolonged_and_records_do_not_count(tiny_policy, prompts, tmp_path):
    build(tiny_policy(), prompts, schedule="constant").train(2, checkpoints=tmp_path)
    longer = build(tiny_policy(), prompts, schedule="constant", checkpoint_every=7, log_completions_every=3)
    longer.train(3, checkpoints=tmp_path)
    assert longer.step == 3
    assert longer.cost.training_completions == 24


def test_what_decides_no_number_may_change(tiny_policy, prompts, tmp_path):
    """Also under a checkpoint from when it was taken for a part of the identity."""
    build(tiny_policy(), prompts, schedule="constant").train(2, checkpoints=tmp_path)
    file = tmp_path / "state.json"
    record = json.loads(file.read_text())
    record["identity"] |= {"execution": "fast", "gradient_checkpointing": False, "micro_batch_size": None}
    file.write_text(json.dumps(record))
    changes = {"execution": "plain", "gradient_checkpointing": True, "micro_batch_size": 2}
    resumed = build(tiny_policy(), prompts, schedule="constant", **changes)
    resumed.train(3, checkpoints=tmp_path)
    assert resumed.step == 3
    assert not resumed.captures  # as `plain` has it, whatever the checkpoint says


def damage_json(directory):
    file = directory / "state.json"
    file.write_text(file.read_text()[:-20])


def of_another_version(directory):
    file = directory / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": -1}))


def cut_tensors(directory):
    file = next(directory.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-8])


def lose_tensors(directory):
    next(directory.glob("*.safetensors")).unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damage_json, "damaged"),
        (cut_tensors, "damaged"),
        (lose_tensors, "damaged"),
        (of_another_version, "another version"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tiny_policy, prompts, tmp_path, harm, message):
    build(tiny_policy(), prompts).train(4, checkpoints=tmp_path)
    harm(tmp_path)
    assert_refused(build(tiny_policy(), prompts), tmp_path, message)


def test_a_checkpoint_of_another_model_is_refused(sure_policy, tiny_policy, prompts, tmp_path):
    """By the starting weights; where these agree (a fresh adapter does not count), by the shapes."""
    build(sure_policy("llama", "fresh"), prompts).train(4, checkpoints=tmp_path / "adapter")
    assert_refused(build(sure_policy("llama"), prompts), tmp_path / "adapter", "start_weights")
    wider = sure_policy("llama")
    wider.add_adapter(Lora(r=8, target_modules=("q_proj", "v_proj")))
    assert_refused(build(wider, prompts), tmp_path / "adapter", "another model")
    build(tiny_policy(), prompts).train(4, checkpoints=tmp_path / "full")
    shorter = tiny_policy()
    shorter.model.to(torch.bfloat16)
    assert_refused(build(shorter, prompts), tmp_path / "full", "start_weights|another model")


def test_a_run_goes_on_only_from_where_it_started(tiny_policy, prompts, tmp_path):
    """Resumed on the policy that was trained so far, the reference would be that policy, and the KL to it 0."""
    trainer = build(tiny_policy(), prompts)
    trainer.train(4, checkpoints=tmp_path)
    assert_refused(build(trainer.policy, prompts), tmp_path, "start_weights")
    assert_refused(build(tiny_policy(), prompts[1:]), tmp_path, "the checkpoint is of prompts")
    other_text = [*prompts[:-1], Prompt(prompts[-1].id, "one old dog")]
    assert_refused(build(tiny_policy(), other_text), tmp_path, "the checkpoint is of prompts")
