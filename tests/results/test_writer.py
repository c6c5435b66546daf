from __future__ import annotations

import json
import math
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from alignbench.errors import ResultsError, RunExistsError, UsageError
from alignbench.records import Cost, EvalReport, MetricValue
from alignbench.results import writer as writer_module
from alignbench.results.frames import load_events, load_train_completions
from alignbench.results.layout import lock_path, replaced_path
from alignbench.results.lock import is_locked
from alignbench.results.reader import find_runs, read_run


def finish(run, **options):
    with run:
        return run.complete(cost=Cost(wall_seconds=2.0), **options)


def test_a_run_grows_in_a_partial_directory_and_is_renamed(tmp_path, begin, report):
    run = begin(tmp_path)
    assert run.action == "start"
    with run:
        assert run.path == tmp_path / "ppo" / ".seed0.partial"
        assert json.loads((run.path / "status.json").read_text())["state"] == "running"
        run.artifact.mkdir()
        (run.checkpoints / "step1.pt").write_text("x")
        run.write_evaluation(report({"kl": [0.1] * 12}), {"decoding": {"top_p": 1.0}})
        run.complete(cost=Cost(wall_seconds=2.0, reward_calls=5), train_reward=1.5)
    final = tmp_path / "ppo" / "seed0"
    assert [path.name for path in (tmp_path / "ppo").iterdir()] == ["seed0"]
    names = sorted(path.name for path in final.iterdir())
    assert names == ["artifact", "environment.json", "evaluations", "recipe.resolved.yaml", "status.json"]
    status = json.loads((final / "status.json").read_text())
    assert status["state"] == "complete"
    assert status["schema_version"] == 1
    assert status["cost"]["reward_calls"] == 5
    assert status["train_reward"] == 1.5
    metrics = json.loads((final / "evaluations" / "trl-detox-v1" / "metrics.json").read_text())
    assert (metrics["n_prompts"], metrics["samples_per_prompt"]) == (12, 1)
    assert metrics["comparability"] == {"decoding": {"top_p": 1.0}}


def test_same_recipe_and_complete_is_skipped(tmp_path, begin):
    finish(begin(tmp_path))
    again = begin(tmp_path)
    assert again.action == "skip"
    assert again.path == tmp_path / "ppo" / "seed0"
    assert begin(tmp_path, seed=1).action == "start"


def test_same_recipe_and_unfinished_is_resumed(tmp_path, begin):
    run = begin(tmp_path)
    (run.checkpoints / "step5.pt").write_text("kept")
    run.record_cost(Cost(wall_seconds=7.0))
    with pytest.raises(RuntimeError, match="disk full"), run:
        raise RuntimeError("disk full")
    assert run.status.state == "failed"
    assert run.status.error == "disk full"
    with begin(tmp_path) as again:
        assert again.action == "resume"
        assert (again.checkpoints / "step5.pt").read_text() == "kept"
        assert again.status.cost.wall_seconds == 7.0
        assert (again.status.state, again.status.error) == ("running", None)


def test_events_of_steps_that_are_run_again_are_replaced_and_so_are_those_of_no_step(tmp_path, begin):
    def events(path):
        rows = map(json.loads, (path / "events.jsonl").read_text().splitlines())
        return [(row["step"], row["prompts_seen"]) for row in rows]

    with begin(tmp_path) as run:
        run.log_step(1, {})
        for step, n in ((1, 10), (2, 20), (2, 21), (3, 30), (None, 99)):
            run.log_event(step, {"prompts_seen": n})
    with begin(tmp_path) as again:
        again.log_event(2, {"prompts_seen": 22})
        again.log_event(None, {"prompts_seen": 98})
        assert events(again.path) == [(1, 10), (2, 22), (None, 98)]
    with begin(tmp_path) as last:
        last.log_event(None, {"prompts_seen": 97})
        path = last.complete(cost=Cost())
    assert events(path) == [(1, 10), (2, 22), (None, 97)]
    assert list(load_events(path)["prompts_seen"]) == [10, 22, 97]


def test_what_is_charged_is_an_event_also_when_the_run_was_complete_before(tmp_path, begin):
    first, second = {"run a": Cost(reward_calls=3)}, {"run b": Cost(reward_calls=4, wall_seconds=0.5)}
    with begin(tmp_path) as run:
        run.charge(first)
        run.log_step(1, {})
        run.log_event(1, {"event": "train"})
    with begin(tmp_path) as again:  # charged by the attempt before
        again.charge(first)
        again.log_event(1, {"event": "train"})
        path = again.complete(cost=Cost())
    begin(tmp_path).charge({**first, **second})
    rows = list(map(json.loads, (path / "events.jsonl").read_text().splitlines()))
    upstream = {"step": None, "event": "upstream", "account": "upstream_cost"}
    assert rows == [
        {"step": 1, "event": "train"},
        upstream | {"source": "run a", "reward_calls": 3},
        upstream | {"source": "run b", "reward_calls": 4, "wall_seconds": 0.5},
    ]


@pytest.mark.parametrize("is_complete", [True, False])
def test_another_recipe_under_this_name_is_refused(tmp_path, begin, is_complete):
    run = begin(tmp_path, run_hash="old")
    if is_complete:
        finish(run)
    else:
        run.log_step(1, {"objective/kl": 0.0})
        run.fail("killed")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunExistsError, match=r"old.*new.*--name.*--force"):
        begin(tmp_path, run_hash="new")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_failed_before_its_first_step_leaves_nothing(tmp_path, begin):
    begin(tmp_path, run_hash="old").fail("no such label")
    assert list(tmp_path.iterdir()) == []
    assert begin(tmp_path, run_hash="new").action == "start"


def test_force_keeps_the_old_run_until_the_new_one_is_complete(tmp_path, begin):
    old = finish(begin(tmp_path, run_hash="old"))
    run = begin(tmp_path, run_hash="new", force=True)
    assert run.action == "start"
    assert read_run(old).status.run_hash == "old"
    finish(run)
    assert read_run(old).status.run_hash == "new"
    assert [path.name for path in old.parent.iterdir()] == ["seed0"]


def test_force_starts_over_an_unfinished_run(tmp_path, begin):
    with begin(tmp_path) as run:
        (run.checkpoints / "step5.pt").write_text("x")
    with begin(tmp_path, force=True) as again:
        assert again.action == "start"
        assert list(again.checkpoints.iterdir()) == []


def test_a_killed_replacement_goes_on_without_force(tmp_path, begin):
    finish(begin(tmp_path, run_hash="old"))
    begin(tmp_path, run_hash="new", force=True).release()
    with begin(tmp_path, run_hash="new") as again:
        assert again.action == "resume"
    assert begin(tmp_path, run_hash="old").action == "skip"


def test_files_that_are_no_run_are_not_overwritten(tmp_path, begin):
    (tmp_path / "ppo" / "seed0").mkdir(parents=True)
    (tmp_path / "ppo" / "seed0" / "thesis.txt").write_text("mine")
    with pytest.raises(RunExistsError, match="no readable run"):
        begin(tmp_path)


def test_foresee_says_what_begin_would_do_and_touches_nothing(tmp_path, begin):
    foresee = writer_module.RunDirectory.foresee
    assert foresee(tmp_path, "ppo", 0, "h0") == "start"
    assert list(tmp_path.iterdir()) == []
    begin(tmp_path).release()
    assert foresee(tmp_path, "ppo", 0, "h0") == "resume"
    assert foresee(tmp_path, "ppo", 0, "h0", force=True) == "start"
    finish(begin(tmp_path))
    assert foresee(tmp_path, "ppo", 0, "h0") == "skip"
    with pytest.raises(RunExistsError):
        foresee(tmp_path, "ppo", 0, "other")


@pytest.mark.parametrize("moment", ["before the rename", "between two renames"])
def test_killed_while_completing(tmp_path, begin, monkeypatch, moment):
    finish(begin(tmp_path, run_hash="old"))
    run = begin(tmp_path, run_hash="new", force=True)

    def killed(partial, final):
        if moment == "between two renames":
            final.rename(replaced_path(final))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            run.complete(cost=Cost())
    run.release()
    # Visibly not complete under its name, and the next start finishes the job without training again.
    assert (tmp_path / "ppo" / ".seed0.partial").exists()
    assert begin(tmp_path, run_hash="new").action == "skip"
    assert read_run(tmp_path / "ppo" / "seed0").status.run_hash == "new"
    assert [path.name for path in (tmp_path / "ppo").iterdir()] == ["seed0"]


def test_a_run_that_was_movedaside_comes_back(tmp_path, begin):
    final = finish(begin(tmp_path, run_hash="old"))
    final.rename(replaced_path(final))  # and the replacement was deleted by hand
    assert begin(tmp_path, run_hash="old").action == "skip"
    assert [path.name for path in final.parent.iterdir()] == ["seed0"]


KILLED_WRITER = """
import os, signal, sys
from alignbench.records import Cost
from alignbench.results import writer
from alignbench.results.writer import RunDirectory
who = {"recipe": "ppo", "method": "ppo", "seed": 0, "run_hash": "h0"}
run = RunDirectory.begin(sys.argv[1], **who, resolved_recipe="name: ppo", environment={"python": "3"})
if sys.argv[2] == "rename":
    writer.publish = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
    run.complete(cost=Cost(wall_seconds=3.0))
print("writing", flush=True)
signal.pause()
"""


def test_sigkill_between_write_and_rename_leaves_a_visible_partial(tmp_path, begin):
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(tmp_path), "rename"], check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(ResultsError, match=r"\.seed0\.partial: unfinished"):
        find_runs(tmp_path)
    assert begin(tmp_path).action == "skip"
    assert find_runs(tmp_path)[0][0].status.cost.wall_seconds == 3.0


def test_one_process_at_a_time_and_a_dead_one_does_not_block(tmp_path, begin):
    writer = subprocess.Popen([sys.executable, "-c", KILLED_WRITER, str(tmp_path), "wait"], stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline() == b"writing\n"
        lock = lock_path(tmp_path / "ppo" / ".seed0.partial")
        assert is_locked(lock)
        with pytest.raises(RunExistsError, match=rf"process {writer.pid} is writing this run"):
            begin(tmp_path)
        begin(tmp_path, seed=1).release()
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert lock.exists()
    assert not is_locked(lock)
    with begin(tmp_path) as run:
        assert run.action == "resume"
        assert is_locked(lock)
    assert not lock.exists()


def test_results_path_that_is_a_file(tmp_path, begin):
    (tmp_path / "results").write_text("")
    with pytest.raises(UsageError, match="results is a file, expected a directory"):
        begin(tmp_path / "results")
    with pytest.raises(UsageError, match="results is a file, expected a directory"):
        begin(tmp_path / "results" / "deeper")


def test_results_path_that_cannot_be_written(tmp_path, begin, monkeypatch):
    def refused(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refused)
    with pytest.raises(ResultsError, match=r"cannot write to .*: Permission denied; choose another --results"):
        begin(tmp_path / "results")


def test_train_log_drops_what_is_run_again(tmp_path, begin):
    with begin(tmp_path) as run:
        for step in range(1, 6):
            run.log_step(step, {"objective/kl": step / 10, "policy/lr": np.float32(0.5), "bad": math.nan})
    path = run.path / "train_log.jsonl"
    with path.open("a") as file:
        file.write('{"step": 6, "obj')  # torn by a kill
    with begin(tmp_path) as again:
        again.log_step(4, {"objective/kl": -4.0})
        again.log_step(4, {"train/total": 1})
        again.log_step(5, {"objective/kl": -5.0})
        assert again.logged("objective/kl") == [0.1, 0.2, 0.3, -4.0, -5.0]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 4, 5]
    assert rows[0] == {"step": 1, "objective/kl": 0.1, "policy/lr": 0.5, "bad": None}


def test_kept_completions_of_steps_that_run_again_are_replaced(tmp_path, begin):
    with begin(tmp_path) as run:
        for step in (1, 3, 5):
            run.log_completions(step, [{"completion": f"{step}a"}, {"completion": f"{step}b", "reward": None}])
    with begin(tmp_path) as again:
        again.log_completions(5, [{"completion": "5c", "kl": 0.25}])
        path = again.complete(cost=Cost())
    rows = load_train_completions(path)
    assert rows["step"].tolist() == [1, 1, 3, 3, 5]
    assert rows["completion"].tolist() == ["1a", "1b", "3a", "3b", "5c"]
    assert rows["recipe"].unique().tolist() == ["ppo"]


def test_numbers_that_are_not_finite_are_never_written(tmp_path, begin):
    metrics = (
        MetricValue("kl", None, math.nan, math.inf, None, "none", 10, 0),
        MetricValue("corpus_distinct_1", None, 0.5, None, None, "higher", 10, 0, None, (math.nan, None, 0.5)),
    )
    values = pd.DataFrame({"kl": [math.inf, 1.0]}, index=pd.Index(["a", "b"], name="prompt_id"))
    with begin(tmp_path) as run:
        run.write_evaluation(EvalReport("p*", metrics, values, pd.DataFrame()), {"x": math.nan, "ids": (1, 2)})
        path = run.complete(cost=Cost(), train_reward=math.nan)
    folder = path / "evaluations" / "p.other-prompts"
    text = (folder / "metrics.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    stored = read_run(path)
    first, second = stored.evaluations[0].record.metrics
    assert (first.value, first.ci_low, first.reason) == (None, None, "the value was not a finite number")
    assert second.replicates == (None, None, 0.5)
    assert stored.evaluations[0].record.protocol == "p*"
    assert stored.status.train_reward is None
    assert pd.read_parquet(folder / "prompt_values.parquet")["kl"].isna().tolist() == [True, False]


def test_a_prompt_has_one_row(tmp_path, begin):
    values = pd.DataFrame({"kl": [1.0, 2.0]}, index=["a", "a"])
    with begin(tmp_path) as run, pytest.raises(ValueError, match="one row per prompt"):
        run.write_evaluation(EvalReport("p", (), values, pd.DataFrame()), {})


def test_no_machine_path_in_a_run(tmp_path, add_run):
    path = add_run(tmp_path, "ppo", {"kl": [0.1] * 12}, log=[{"objective/kl": 0.1}])
    for file in path.rglob("*.json*"):
        assert str(tmp_path) not in file.read_text(), file


def test_interrupted_run_says_so(tmp_path, begin):
    with pytest.raises(KeyboardInterrupt), begin(tmp_path) as run:
        raise KeyboardInterrupt
    assert (run.status.state, run.status.error) == ("failed", "KeyboardInterrupt")
