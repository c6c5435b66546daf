"""Trackers: the same names in each, real clients in their local modes, and none that stops a run."""

import json
import math
from pathlib import Path

import pytest

from alignbench.pipeline import execute
from alignbench.recipe.loading import load
from alignbench.tracking import mlflow as mlflow_module
from alignbench.tracking import tensorboard as tensorboard_module
from alignbench.tracking.trackers import NAMES, TrackedRun, Trackers

VALUES = {"objective/reward": 0.5, "heldout/toxicity_mean@judge": 0.25, "note": "text", "lost": math.nan, "none": None}
TOLD = {"objective/reward": 0.5, "heldout/toxicity_mean/judge": 0.25}


class Recorded:
    """A client that keeps what it is told, and fails at a step."""

    def __init__(self, fails_at=None):
        self.rows, self.fails_at, self.is_finished = [], fails_at, False

    def log(self, step, values):
        if step == self.fails_at:
            raise RuntimeError("no connection")
        self.rows.append((step, dict(values)))

    def finish(self):
        self.is_finished = True


@pytest.fixture
def run(tmp_path):
    return TrackedRun("ppo", "ppo", 3, {"budget": {"completions": 32}}, tmp_path)


def test_a_run_is_told_under_the_same_names_and_a_tracker_that_fails_does_not_stop_it(
    recipe_folder, monkeypatch, caplog
):
    kept, failing = Recorded(), Recorded(fails_at=2)
    monkeypatch.setattr(tensorboard_module, "begin", lambda run: kept)
    monkeypatch.setattr(mlflow_module, "begin", lambda run: failing)
    sets = ["tracking=[tensorboard, mlflow]", "evaluation.evaluate_every=16"]
    plain, told = load(["ppo.yaml"]), load(["ppo.yaml"], sets)
    assert plain[0].run_hash == told[0].run_hash
    [outcome] = execute.run(told, Path("results"))
    assert outcome.state == "done", outcome.error
    names = {name for _, values in kept.rows for name in values}
    assert {"objective/reward", "budget/completions", "validation/kl", "heldout/toxicity_mean/judge"} <= names
    assert not [name for name in names if "@" in name]
    log = [json.loads(line) for line in Path("results/ppo/seed0/train_log.jsonl").read_text().splitlines()]
    rewards = [(step, values["objective/reward"]) for step, values in kept.rows if "objective/reward" in values]
    assert rewards == [(row["step"], row["objective/reward"]) for row in log]
    assert [step for step, _ in kept.rows] == sorted(step for step, _ in kept.rows)
    [file] = Path("results/ppo/seed0/evaluations").glob("*/metrics.json")
    [kl] = [one["value"] for one in json.loads(file.read_text())["metrics"] if one["metric"] == "kl"]
    assert kept.rows[-1][1]["heldout/kl"] == kl
    assert kept.is_finished
    assert {step for step, _ in failing.rows} == {0, 1}
    assert "tracking: mlflow failed and is left out from here on: RuntimeError: no connection" in caplog.text


def test_a_client_that_is_not_installed_is_left_out(run, monkeypatch, caplog):
    def begin(run):
        raise ModuleNotFoundError("No module named 'tensorboard'")

    monkeypatch.setattr(tensorboard_module, "begin", begin)
    trackers = Trackers(["tensorboard"], run)
    trackers.log(1, VALUES)
    trackers.finish()
    assert (
        "tracking: tensorboard is left out: No module named 'tensorboard'; pip install 'alignbench[tensorboard]'"
        in caplog.text
    )


def test_an_unknown_tracker_is_refused(recipe_folder):
    from alignbench.errors import RecipeError

    with pytest.raises(RecipeError, match="tracking"):
        load(["ppo.yaml"], ["tracking=[tensorbord]"])


def told(name, run, caplog):
    trackers = Trackers([name], run)
    trackers.log(1, VALUES)
    trackers.log(2, {"objective/reward": 1.5})
    trackers.log_last({"heldout/kl": 2.0})
    trackers.finish()
    assert "tracking:" not in caplog.text


def test_tensorboard(run, caplog):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told("tensorboard", run, caplog)
    events = EventAccumulator(str(run.folder / "tensorboard" / "ppo/seed3")).Reload()
    read = {name: [(one.step, one.value) for one in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert read == {
        "objective/reward": [(1, 0.5), (2, 1.5)], "heldout/toxicity_mean/judge": [(1, 0.25)], "heldout/kl": [(2, 2.0)],
    }  # fmt: skip


def test_trackio(run, caplog, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(run.folder / "trackio"))
    pytest.importorskip("trackio", reason="trackio is not installed")
    from trackio.sqlite_storage import SQLiteStorage

    told("trackio", run, caplog)
    rows = SQLiteStorage.get_logs("alignbench", "ppo/seed3")
    rewards = [(row["step"], row["objective/reward"]) for row in rows if "objective/reward" in row]
    assert rewards == [(1, 0.5), (2, 1.5)]
    assert rows[-1]["heldout/kl"] == 2.0


def test_wandb_offline(run, caplog, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    told("wandb", run, caplog)
    [file] = (run.folder / "wandb").rglob("offline-run-*/*.wandb")
    content = file.read_bytes()
    for name in TOLD:
        assert name.encode() in content


def test_mlflow_in_a_local_database(run, caplog, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow.tracking import MlflowClient

    told("mlflow", run, caplog)
    client = MlflowClient(tracking_uri=f"sqlite:///{run.folder / 'mlflow/mlflow.db'}")
    [experiment] = [one for one in client.search_experiments() if one.name == "alignbench"]
    [found] = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "ppo/seed3"
    assert found.info.status == "FINISHED"
    assert [(one.step, one.value) for one in client.get_metric_history(found.info.run_id, "objective/reward")] == [
        (1, 0.5),
        (2, 1.5),
    ]
    assert found.data.metrics == {"objective/reward": 1.5, "heldout/toxicity_mean/judge": 0.25, "heldout/kl": 2.0}


def test_every_tracker_has_a_module():
    folder = Path(tensorboard_module.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} == {*NAMES, "__init__", "trackers"}
