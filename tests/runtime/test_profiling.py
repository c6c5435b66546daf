"""Profiles: the trace is what tools can read, shares add up, and nothing else about a run changes."""

import gzip
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from torch.profiler import DeviceType

from alignbench.cli import main
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.pipeline.plan import plan, run_path
from alignbench.recipe.loading import load
from alignbench.records import Prompt
from alignbench.runtime import profiling
from alignbench.runtime.clock import stage
from alignbench.runtime.profiling import Profile, shares_of

CPU = torch.device("cpu")


def nothing(*args):
    """Called between steps."""


def train(directory, n_steps, first=1):
    """Steps with two stages, the first named after its step, and an evaluation behind each that is called the same."""
    x = torch.ones(4, 4)

    def evaluate(step):
        with stage(f"long {step}"):
            x @ x

    with Profile(directory, CPU) as profile:
        log, evaluate_at = profile.between_steps(nothing), profile.between_steps(evaluate)
        for step in range(first, first + n_steps):
            with stage(f"long {step}"):
                pass
            with stage("short"):
                pass
            log(step, {})
            evaluate_at(step)
        evaluate_at(step)
    return profile


def trace_of(directory):
    with gzip.open(directory / "trace.json.gz", "rt") as file:
        return json.load(file)


@pytest.mark.parametrize(("n_steps", "first"), [(2, 1), (6, 1), (3, 7)])
def test_shares_are_of_the_second_step(tmp_path, n_steps, first):
    profile = train(tmp_path, n_steps, first)
    assert profile.step == first + 1
    shares = profile.shares
    assert list(shares.stages) == [f"long {first + 1}", "short", "other"]
    assert sum(shares.stages.values()) == pytest.approx(1)
    assert not shares.operators  # that of an evaluation is no part of a step
    names = [event["name"] for event in trace_of(tmp_path)["traceEvents"] if event.get("ph") == "X"]
    assert names.count(f"stage: long {first + 1}") == names.count("stage: short") == 1


def test_the_seconds_are_those_of_the_step(tmp_path, monkeypatch, clock):
    """An evaluation between two steps takes longer than both, and belongs to neither."""
    monkeypatch.setattr(profiling, "time", clock)
    with Profile(tmp_path, CPU) as profile:
        log = profile.between_steps(nothing)
        evaluate_at = profile.between_steps(lambda step: clock.wait(100.0))
        for step in (1, 2, 3):
            clock.wait(10.0 * step)
            log(step)
            evaluate_at(step)
    assert (profile.step, profile.shares.seconds) == (2, 20.0)


def test_shares_by_hand():
    """Ten seconds: stages of 6, 1 and another 1; of the operators what they do themselves, the largest first."""

    def event(name, elapsed, own):
        span = SimpleNamespace(elapsed_us=lambda: elapsed * 1e6)
        return SimpleNamespace(
            name=name, time_range=span, self_cpu_time_total=own * 1e6, self_device_time_total=own * 5e5,
            device_type=DeviceType.CPU,
        )  # fmt: skip

    inside = [event("aten::linear", 5, 0.5), event("aten::mm", 4.5, 4.5), event("aten::add", 1, 0.0)]
    events = [event("stage: a", 6, 0.5), event("stage: b", 1, 1), event("stage: b", 1, 1), *inside]
    shares = shares_of(SimpleNamespace(events=lambda: events), 10.0, on_gpu=False)
    assert shares.seconds == 10
    assert shares.stages == pytest.approx({"a": 0.6, "b": 0.2, "other": 0.2})
    assert list(shares.operators.items()) == [("aten::mm", 0.45), ("aten::linear", 0.05)]
    on_gpu = shares_of(SimpleNamespace(events=lambda: events), 10.0, on_gpu=True)
    assert on_gpu.stages == shares.stages
    assert on_gpu.operators == pytest.approx({"aten::mm": 0.9, "aten::linear": 0.1})  # of its busy time


def test_one_step_is_too_few(tmp_path):
    profile = train(tmp_path, 1)
    assert profile.shares is None
    assert "two training steps" in str(profile)
    assert not list(tmp_path.iterdir())


def test_training_that_fails_leaves_no_profiler_behind(tmp_path):
    def fail():
        with Profile(tmp_path, CPU) as profile:
            profile.between_steps(nothing)(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert train(tmp_path, 2).shares is not None  # torch has one profiler at a time


def test_operators_are_counted_without_what_they_call(tmp_path):
    x = torch.randn(1500, 1500)
    with Profile(tmp_path, CPU) as profile:
        log = profile.between_steps(nothing)
        for step in range(3):
            torch.nn.functional.linear(x, x)
            log(step)
    first, *others = profile.shares.operators.values()
    assert next(iter(profile.shares.operators)) in ("aten::mm", "aten::addmm")
    assert profile.shares.operators.get("aten::linear", 0) < first  # with its product it would be all
    assert first + sum(others) <= 1
    assert profile.shares.stages == {"other": 1}


def test_a_stage_costs_nothing_without_a_profile(tiny_policy):
    """A step has four; those of 250 steps use less of the processor than three of the smallest steps in these tests."""
    config = PPOConfig(batch_size=8, mini_batch_size=4, completion_tokens=(3, 6))
    trainer = PPOTrainer(tiny_policy(), lambda _, texts: [0.0] * len(texts), [Prompt("p", "the dog")], config)
    trainer.train_step()
    started = time.process_time()
    for _ in range(3):
        trainer.train_step()
    steps = time.process_time() - started
    started = time.process_time()
    for _ in range(1000):
        with stage("idle"):
            pass
    assert time.process_time() - started < steps


# Through a run.


@pytest.fixture
def run(recipe_folder):
    """Runs a recipe of the folder by the command line."""

    def execute(*arguments):
        outcome = CliRunner().invoke(main, ["run", *arguments])
        assert outcome.exit_code == 0, outcome.output
        return outcome

    return execute


def numbers(path):
    rows = [json.loads(line) for line in (path / "train_log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in rows]


def test_a_profiled_run(run, finished, caplog):
    caplog.set_level("INFO", logger="alignbench")
    finished("ppo", results="plain")
    run("ppo.yaml", "--results", "profiled", "--profile")
    [plain], [profiled] = (plan(load(["ppo.yaml"])) for _ in range(2))
    assert plain.run_hash == profiled.run_hash
    paths = [run_path(plain.recipe, Path(folder)) for folder in ("plain", "profiled")]
    assert numbers(paths[0]) == numbers(paths[1])
    assert not (paths[0] / "profile").exists()
    # The trace: the stages of one step, operators within them, and nothing about the machine.
    trace = trace_of(paths[1] / "profile")
    names = [event.get("name") for event in trace["traceEvents"] if event.get("ph") == "X"]
    for name in ("rollout", "reward", "forward", "update"):
        assert names.count(f"stage: {name}") == 1
    assert "aten::mm" in names
    assert not {"host_name", "traceName"} & set(trace)
    # What is printed: every stage with its share.
    [said] = [record.getMessage() for record in caplog.records if "profile of" in record.getMessage()]
    rows = [line.strip().rsplit(maxsplit=1) for line in said.splitlines() if line.startswith("  ")]
    shares = {name: float(share.rstrip("%")) for name, share in rows}
    stages = ("rollout", "reward", "forward", "update", "other")
    assert sum(shares[name] for name in stages) == pytest.approx(100, abs=0.3)
    assert min(shares[name] for name in stages[:4]) > 0
    assert any(name.startswith("aten::") for name in shares)
    assert "how matrices were multiplied\nproducts: none large enough for a choice of kernels" in caplog.text
    # What is complete is not run again for a profile.
    run("ppo.yaml", "--results", "plain", "--profile")
    assert "complete, so nothing is profiled; --force runs it again" in caplog.text


def test_methods_without_stages_are_profiled_as_a_whole(run, caplog):
    caplog.set_level("INFO", logger="alignbench")
    run("dpo.yaml", "--profile")
    assert f"  {'other':<49} 100.0%" in caplog.text
