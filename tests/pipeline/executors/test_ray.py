"""A real Ray cluster of two nodes on this machine: one dies, one does not see the results directory."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from importlib.resources import files as files_of
from pathlib import Path

import alignbench_recipes
import pytest

from alignbench.pipeline import execute
from alignbench.pipeline.executors.engines import engine
from alignbench.recipe.loading import load
from alignbench.results import layout, reader

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where everything lies, with a cache of its own."""
    folder = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNBENCH_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def suite(folder):
    """PPO with a checkpoint at every step on a reward model, in the embedded world; returns what was loaded."""
    shared = files_of(alignbench_recipes) / "_shared"
    small = {"budget": {"completions": 192}, "evaluation": {"n_prompts": 8, "evaluate_every": 0}}
    method = {"batch_size": 32, "mini_batch_size": 16, "checkpoint_every": 1}
    ppo = {"recipe": "ppo_learned_reward", "overrides": {"extends": f"{shared}/embedded_ppo.yaml", "method": method}}
    overrides = {"extends": f"{shared}/embedded.yaml", **small}
    recipes = ["base", {"recipe": "reward_model"}, ppo]
    (folder / "suite.yaml").write_text(json.dumps({"name": "small", "overrides": overrides, "recipes": recipes}))
    return load([str(folder / "suite.yaml")])


@pytest.fixture(scope="module")
def serial(suite, folder):
    """The runs of one process."""
    execute.run(suite, folder / "serial")
    return folder / "serial"


@pytest.fixture
def cluster(folder):
    """A head without a core, which runs nothing, on a machine that sees what this process does."""
    ray = pytest.importorskip("ray", reason="ray is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def with_cores(n):
    """Waits until so many nodes have cores; returns them."""
    import ray

    until = time.monotonic() + 300
    while len(found := [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]) < n:
        assert time.monotonic() < until, ray.nodes()
        time.sleep(0.5)
    return found


def parent_of(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def measured(results):
    return {run.status.recipe: run.evaluations[0].record.metrics for run in reader.find_runs(results)[0]}


def weights(results):
    return {path.relative_to(results): path.read_bytes() for path in results.rglob("model.safetensors")}


def test_a_node_that_dies_costs_a_checkpoint_alone(suite, serial, cluster, tmp_path, caplog):
    nodes = {node.all_processes["raylet"][0].process.pid: node for node in (cluster.add_node(num_cpus=1) for _ in "12")}
    with_cores(2)
    log = layout.partial_path(tmp_path / "side", "ppo_learned_reward", 0) / layout.TRAIN_LOG_FILE
    killed, steps = [], []

    def kill():
        while not (log.exists() and len(log.read_text().splitlines()) >= 2):
            time.sleep(0.02)
        killed.append(parent_of(layout.lock_path(log.parent.with_name("seed0")).read_text().strip()))
        cluster.remove_node(nodes[killed[0]], allow_graceful=False)
        steps.append(len(log.read_text().splitlines()))

    thread = threading.Thread(target=kill)
    thread.start()
    outcomes = execute.run(suite, tmp_path / "side", engine=engine("ray", None, {}), retries=1)
    thread.join()
    assert [(one.state, one.error) for one in outcomes] == [("done", None)] * 3
    assert killed[0] in nodes
    assert steps[0] < 6  # in the middle of it
    assert "tried again from its last checkpoint" in caplog.text
    assert measured(tmp_path / "side") == measured(serial)
    assert weights(tmp_path / "side") == weights(serial)


@pytest.fixture
def apart(cluster, tmp_path):
    """A node with a file system of its own in place of the results directory."""
    results = tmp_path / "side"
    results.mkdir()
    if os.geteuid() or not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs to be allowed to mount: unshare -m")
    ports = ["min-worker-port", "max-worker-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port"]
    ray_start = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={cluster.address}", "--num-cpus=1"]
    script = f"mount -t tmpfs none '{results}' && exec \"$@\""
    command = ["unshare", "-m", "sh", "-c", script, "sh", *ray_start, *(f"--{one}=0" for one in ports), "--block"]
    process = subprocess.Popen(command)
    with_cores(1)
    yield results
    process.terminate()
    process.wait(60)


def test_a_node_that_does_not_see_the_results_directory(suite, serial, apart, caplog):
    caplog.set_level("INFO")
    outcomes = execute.run(suite, apart, engine=engine("ray", None, {}), retries=0)
    assert [(one.state, one.error) for one in outcomes] == [("done", None)] * 3
    assert "runs are sent there, and come back" in caplog.text
    assert measured(apart) == measured(serial)
    assert weights(apart) == weights(serial)
    assert not any((apart / layout.JOBS).iterdir())
    assert [one.state for one in execute.run(suite, apart, engine=engine("ray", None, {}))] == ["kept"] * 3
