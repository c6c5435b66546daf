"""Runs by workers of this machine: the numbers of one process, and nothing lost when one dies."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from importlib.resources import files as files_of

import alignbench_recipes
import pytest
import torch

from alignbench.comparison.progress_table import render_progress
from alignbench.pipeline import execute
from alignbench.pipeline.executors.local import LocalExecutor, visible_gpus
from alignbench.pipeline.executors.work import environment_of_share
from alignbench.recipe.loading import load
from alignbench.results import layout, reader


def by_workers(n):
    return lambda order: LocalExecutor(order, n)


def files(run):
    """What decides what a run says: values, completions, weights."""
    kept = (
        "prompts.parquet",
        "completions.parquet",
        "divergence.parquet",
        "model.safetensors",
        "train_completions.jsonl",
    )
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.name in kept}


@pytest.fixture
def suite(tmp_path, monkeypatch, forked):
    """Small runs of the embedded world: of the tests' own one a worker would not know what tests have put in its place.

    Returns what was loaded.
    """
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path / "cache"))
    shared = files_of(alignbench_recipes) / "_shared"
    method = {"batch_size": 32, "mini_batch_size": 16, "checkpoint_every": 1}
    small = {"budget": {"completions": 96}, "evaluation": {"n_prompts": 8, "evaluate_every": 0}}
    ppo = {"recipe": "ppo_detox", "overrides": {"extends": f"{shared}/embedded_ppo.yaml", "method": method}}
    overrides = {"extends": f"{shared}/embedded.yaml", **small}
    (tmp_path / "suite.yaml").write_text(
        json.dumps({"name": "small", "overrides": overrides, "recipes": ["base", ppo]})
    )
    return load([str(tmp_path / "suite.yaml")])


def test_workers_give_the_numbers_of_one_process_bit_for_bit(suite, tmp_path):
    execute.run(suite, tmp_path / "serial")
    outcomes = execute.run(suite, tmp_path / "side", engine=by_workers(2))
    assert [(one.recipe, one.state) for one in outcomes] == [("base", "done"), ("ppo_detox", "done")]
    for name in ("base", "ppo_detox"):
        alone, beside = (folder / name / "seed0" for folder in (tmp_path / "serial", tmp_path / "side"))
        assert files(beside) == files(alone)
        runs = [reader.read_run(path) for path in (alone, beside)]
        assert [run.status.run_hash for run in runs] == [runs[0].status.run_hash] * 2
        metrics = [run.evaluations[0].record.metrics for run in runs]
        assert metrics[0] == metrics[1]
    assert not (tmp_path / "side" / layout.JOBS).exists() or not any((tmp_path / "side" / layout.JOBS).iterdir())
    assert not list((tmp_path / "side").rglob(layout.PROGRESS_FILE))


@pytest.mark.parametrize(
    ("n", "place", "cpus", "gpus", "expected"),
    [
        (2, 1, 8, [], {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"}),
        (4, 3, 2, [], {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}),
        (4, 3, 16, ["0", "7"], {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "7"}),
    ],
)
def test_each_worker_has_its_share_of_the_cores_and_a_gpu_in_turn(n, place, cpus, gpus, expected):
    assert environment_of_share(n, place, cpus, gpus) == expected


@pytest.mark.parametrize(
    ("names", "n", "expected"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("", 0, []),
        ("5, 7", 2, ["5", "7"]),
        ("GPU-8f2c,GPU-1b7d", 2, ["GPU-8f2c", "GPU-1b7d"]),
        ("0,1,9", 2, ["0", "1"]),  # CUDA sees none behind the first that is not there
    ],
)
def test_gpus_have_the_names_that_this_process_was_given(monkeypatch, names, n, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if names is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
    assert visible_gpus() == expected


@pytest.mark.gpu
def test_a_worker_sees_the_gpu_of_its_own_alone():
    gpus = visible_gpus()
    says = "import torch; print(torch.cuda.device_count(), torch.cuda.get_device_properties(0).uuid)"
    seen = []
    for place in range(len(gpus)):
        variables = os.environ | environment_of_share(len(gpus), place, 8, gpus)
        done = subprocess.run([sys.executable, "-c", says], env=variables, capture_output=True, text=True, check=True)
        seen.append(done.stdout.split())
    assert seen == [["1", str(torch.cuda.get_device_properties(i).uuid)] for i in range(len(gpus))]


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_a_checkpoint_alone(suite, tmp_path):
    execute.run(suite[1:], tmp_path / "serial")
    log = tmp_path / "side" / "ppo_detox" / ".seed0.partial" / layout.TRAIN_LOG_FILE
    killed = []

    def kill():
        while not (log.exists() and len(log.read_text().splitlines()) >= 2):
            time.sleep(0.01)
        killed.append(int(layout.lock_path(log.parent.with_name("seed0")).read_text()))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    outcomes = execute.run(suite[1:], tmp_path / "side", engine=by_workers(1), retries=1)
    thread.join()
    assert killed
    assert [one.state for one in outcomes] == ["done"]
    assert files(tmp_path / "side" / "ppo_detox" / "seed0") == files(tmp_path / "serial" / "ppo_detox" / "seed0")


def command(folder, *options):
    """What a user types, in a shell of its own."""
    words = [sys.executable, "-m", "alignbench", "run", str(folder / "suite.yaml"), "--results", str(folder / "side")]

    def heed_interrupts():  # as a shell has it for what is in front
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        [*words, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heed_interrupts
    )


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--workers", "1")])
def test_two_commands_on_one_suite_share_the_work(suite, tmp_path, options):
    commands = [command(tmp_path, *options), command(tmp_path)]
    said = [one.communicate()[0] for one in commands]
    assert [one.returncode for one in commands] == [0, 0], said
    for name in ("base", "ppo_detox"):
        ends = [line for one in said for line in one.splitlines() if line.startswith(f"{name}, seed 0: ")]
        assert sum(line.startswith(f"{name}, seed 0: done") for line in ends) == 1, said
        assert sum(line.startswith(f"{name}, seed 0: already complete") for line in ends) == 1, said


@pytest.mark.slow
def test_ctrl_c_ends_workers_at_a_checkpoint_and_the_same_command_goes_on(suite, tmp_path):
    execute.run(suite[1:], tmp_path / "serial")
    partial = tmp_path / "side" / "ppo_detox" / ".seed0.partial"
    interrupted = command(tmp_path, "--workers", "2")
    while not (partial / layout.TRAIN_LOG_FILE).exists():
        assert interrupted.poll() is None
        time.sleep(0.02)
    interrupted.send_signal(signal.SIGINT)
    said = interrupted.communicate()[0]
    assert interrupted.returncode == 130, said
    assert "Interrupted; the same command goes on." in said
    assert "Traceback" not in said
    assert any((partial / layout.CHECKPOINTS).iterdir())
    assert "interrupted" in render_progress(tmp_path / "side")
    again = command(tmp_path, "--workers", "2")
    assert "ppo_detox, seed 0: resume" in again.communicate()[0]
    assert again.returncode == 0
    assert files(tmp_path / "side" / "ppo_detox" / "seed0") == files(tmp_path / "serial" / "ppo_detox" / "seed0")


@pytest.mark.slow
def test_a_hundred_runs_over_eight_workers_end_with_nothing_missing(suite, tmp_path):
    loaded = load([str(tmp_path / "suite.yaml")], seeds=range(100))[:100]
    outcomes = execute.run(loaded, tmp_path / "many", engine=by_workers(8))
    assert [one.state for one in outcomes] == ["done"] * 100
    runs, skipped = reader.scan_runs(tmp_path / "many")
    assert len(runs) == 100
    assert skipped == []
    assert any((tmp_path / "cache").iterdir())  # the environment of now, not of when the first worker was made ready
