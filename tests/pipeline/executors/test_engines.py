"""Engines by name, and what they say where something is missing."""

import json
import sys

import pytest
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.errors import UsageError
from alignbench.pipeline import execute
from alignbench.pipeline.executors import local
from alignbench.pipeline.executors.base import Order
from alignbench.pipeline.executors.engines import engine
from alignbench.pipeline.executors.local import LocalExecutor
from alignbench.recipe.loading import load
from alignbench.results import reader


def test_nothing_is_asked_for():
    assert engine(None, None, {}) is None


def test_workers_are_local_and_get_ready_at_once(tmp_path, monkeypatch):
    ready = []
    monkeypatch.setattr(local, "get_ready", ready.append)
    made = engine(None, 2, {})(Order({}, tmp_path))
    assert ready == [2]
    assert isinstance(made, LocalExecutor)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("slrum", {}, "--executor: got 'slrum', expected one of local, slurm, ray, did you mean 'slurm'"),
        ("local", {"num_cpus": 2}, "--executor-option: num_cpus: local workers have no options"),
        (None, {"num_cpus": 2}, "--executor-option: got one without --executor"),
    ],
)
def test_what_cannot_be(name, options, said):
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        engine(name, None, options)


@pytest.mark.parametrize(
    ("name", "module", "said"),
    [
        ("slurm", "submitit", "executor slurm: submitit is not installed; pip install 'alignbench[slurm]'"),
        ("ray", "ray", "executor ray: Ray is not installed; pip install 'alignbench[ray]'"),
    ],
)
def test_an_engine_that_is_not_installed(recipe_folder, monkeypatch, name, module, said):
    monkeypatch.setitem(sys.modules, module, None)
    result = CliRunner().invoke(main, ["run", "base.yaml", "--executor", name])
    assert result.exit_code == 2
    assert said in result.output
    assert not (recipe_folder / "results").exists() or not list((recipe_folder / "results").rglob("status.json"))


@pytest.mark.slow
def test_a_suite_by_jobs_of_submitit_on_this_machine(tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path / "cache"))
    overrides = {"budget": {"completions": 64}, "evaluation": {"n_prompts": 8, "evaluate_every": 0}}
    recipes = ["base", {"recipe": "reward_model"}, {"recipe": "dpo_classifier_pairs"}]
    from alignbench_recipes import __path__ as shipped

    suite = {"name": "s", "overrides": {"extends": f"{shipped[0]}/_shared/embedded.yaml", **overrides}}
    (tmp_path / "suite.yaml").write_text(json.dumps(suite | {"recipes": recipes}))
    loaded = load([str(tmp_path / "suite.yaml")])
    execute.run(loaded, tmp_path / "serial")
    outcomes = execute.run(
        loaded, tmp_path / "side", engine=engine("slurm", 2, {"cluster": "local", "timeout_min": 10})
    )
    assert [(one.state, one.error) for one in outcomes] == [("done", None)] * 3
    metrics = [
        [run.evaluations[0].record.metrics for run in reader.find_runs(tmp_path / folder)[0]]
        for folder in ("serial", "side")
    ]
    assert metrics[0] == metrics[1]
