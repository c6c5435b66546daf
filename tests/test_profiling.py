"""Profiles: the trace is what tools can read, shares add up, and nothing else about a run changes."""

import gzip
import json
import time

import pytest
import torch
from click.testing import CliRunner

from alignbench import pipeline
from alignbench.cli import main
from alignbench.profiling import Profile
from alignbench.recipe import load
from alignbench.runtime import stage

CPU = torch.device("cpu")


def nothing(*args):
    """Called between steps."""


def train(directory, n_steps, first=1):
    """Steps of 60 ms of sleep in one stage, 10 in another, 10 in none, then an evaluation; the first one is long."""
    x = torch.ones(4, 4)

    def evaluate(step):
        with stage("long"):
            time.sleep(0.02 + (x @ x)[0, 0].item() / 1e3)

    with Profile(directory, CPU) as profile:
        log, evaluate_at = profile.between_steps(nothing), profile.between_steps(evaluate)
        for step in range(first, first + n_steps):
            with stage("long"):
                time.sleep(0.06 if step > first else 0.3)
            with stage("short"):
                time.sleep(0.01)
            time.sleep(0.01)
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
    assert shares.seconds > 0.08
    assert list(shares.stages) == ["long", "short", "other"]
    assert shares.stages["long"] > 2 * shares.stages["short"] > 0
    assert sum(shares.stages.values()) == pytest.approx(1)
    assert not shares.operators  # that of an evaluation is no part of a step
    names = [event["name"] for event in trace_of(tmp_path)["traceEvents"] if event.get("ph") == "X"]
    assert names.count("stage: long") == names.count("stage: short") == 1


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
    assert next(iter(profile.shares.operators)) in ("aten::mm", "aten::addmm")
    assert profile.shares.operators.get("aten::linear", 0) < 0.5  # with its product it would be all
    assert sum(profile.shares.operators.values()) <= 1
    assert profile.shares.stages == {"other": 1}


def test_a_stage_costs_nothing_without_a_profile():
    started = time.process_time()
    for _ in range(1000):
        with stage("idle"):
            pass
    assert time.process_time() - started < 0.1  # 100 microseconds each


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


def test_a_profiled_run(run, caplog):
    caplog.set_level("INFO", logger="alignbench")
    run("ppo.yaml", "--results", "plain")
    run("ppo.yaml", "--results", "profiled", "--profile")
    [plain], [profiled] = (pipeline.plan(load(["ppo.yaml"])) for _ in range(2))
    assert plain.run_hash == profiled.run_hash
    paths = [pipeline.run_path(plain.recipe, pipeline.Path(folder)) for folder in ("plain", "profiled")]
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
    # What is complete is not run again for a profile.
    run("ppo.yaml", "--results", "plain", "--profile")
    assert "complete, so nothing is profiled; --force runs it again" in caplog.text


def test_methods_without_stages_are_profiled_as_a_whole(run, caplog):
    caplog.set_level("INFO", logger="alignbench")
    run("dpo.yaml", "--profile")
    assert f"  {'other':<49} 100.0%" in caplog.text
