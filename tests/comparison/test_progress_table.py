import json
import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.comparison import progress_table
from alignbench.comparison.progress_table import render_progress
from alignbench.errors import ResultsError
from alignbench.results import layout
from alignbench.results.failures import forget_failure, record_failure
from alignbench.results.lock import RunLock
from alignbench.results.reader import SkippedRun

_RUNS = Path(__file__).parents[1] / "golden" / "results" / "v1_november"


@pytest.fixture
def results(tmp_path):
    """Two complete runs, one that was cut off, one damaged, and one that waits."""
    shutil.copytree(_RUNS, tmp_path / "results")
    ordered = tmp_path / "results" / layout.JOBS / "1-2"
    (ordered / "dpo" / "seed7").mkdir(parents=True)
    lock = RunLock(ordered / layout.ORDER_LOCK)
    yield tmp_path / "results"
    lock.release()


def lines(results):
    return {tuple(line.split()[:2]): line for line in render_progress(results).splitlines()}


def write_progress(results, **changes):
    partial = results / "ppo_detox" / ".seed2.partial"
    values = {
        "doing": "PPO",
        "done": 3,
        "total": 8,
        "seconds_left": 95.2,
        "host": "node7",
        "pid": 42,
        "time": time.time(),
    }
    (partial / layout.PROGRESS_FILE).write_text(json.dumps(values | changes))
    return partial


def test_complete_cut_off_damaged_and_waiting(results):
    found = lines(results)
    assert found["base", "0"].split()[2] == "complete"
    assert found["ppo_detox", "2"].split()[2] == "interrupted"
    assert found["dpo", "7"].split()[2] == "waiting"
    assert found["base", "2"].split()[2] == "damaged"
    assert "base/seed2: " in render_progress(results)


def test_a_run_under_way_says_where_how_far_and_how_long(results):
    partial = write_progress(results, time=time.time() - 3600)
    assert "interrupted" in lines(results)["ppo_detox", "2"]
    lock = RunLock(layout.lock_path(partial.with_name("seed2")))
    try:
        row = lines(results)["ppo_detox", "2"]
        assert "running" in row
        assert "node7, process 42" in row
        assert "PPO 3 of 8 (38 %)" in row
        assert row.endswith("1:35")
    finally:
        lock.release()
    write_progress(results)  # another machine's lock cannot always be seen; fresh progress can
    assert "running" in lines(results)["ppo_detox", "2"]


def test_a_run_that_has_just_begun_is_not_damaged(results):
    partial = results / "sft" / ".seed0.partial"
    partial.mkdir(parents=True)
    assert lines(results)["sft", "0"].split()[2] == "damaged"
    lock = RunLock(layout.lock_path(partial.with_name("seed0")))
    assert lines(results)["sft", "0"].split()[2] == "running"
    lock.release()


def test_a_run_that_gets_its_name_while_it_is_read_is_complete(results, monkeypatch):
    partial, scan, scans = results / "base" / ".seed0.partial", progress_table.scan_runs, []
    (results / "base" / "seed0").rename(partial)

    def scan_while_it_ends(folder):
        scans.append(folder)
        runs, skipped = scan(folder)
        if len(scans) > 1:
            return runs, skipped
        partial.rename(results / "base" / "seed0")
        return runs, [SkippedRun(partial, "missing", "no such directory")]

    monkeypatch.setattr(progress_table, "scan_runs", scan_while_it_ends)
    assert lines(results)["base", "0"].split()[2] == "complete"


def test_what_a_killed_command_had_still_to_do_does_not_wait(results):
    killed = results / layout.JOBS / "3-4"
    (killed / "dpo" / "seed8").mkdir(parents=True)
    (killed / layout.ORDER_LOCK).touch()
    assert ("dpo", "8") not in lines(results)


def test_progress_that_is_half_written_is_passed_over(results):
    partial = write_progress(results)
    (partial / layout.PROGRESS_FILE).write_text('{"doing": "PP')
    assert "interrupted" in lines(results)["ppo_detox", "2"]


def test_a_run_that_ctrl_c_has_ended_is_interrupted_and_has_not_failed(results):
    status = write_progress(results) / layout.STATUS_FILE
    changed = {"state": "failed", "error": "KeyboardInterrupt"}
    status.write_text(json.dumps(json.loads(status.read_text()) | changed))
    assert "interrupted" in lines(results)["ppo_detox", "2"]
    assert "KeyboardInterrupt" not in render_progress(results)


def test_a_failed_run_says_why(results):
    status = results / "ppo_detox" / ".seed2.partial" / layout.STATUS_FILE
    status.write_text(json.dumps(json.loads(status.read_text()) | {"state": "failed", "error": "the loss is nan"}))
    said = " ".join(render_progress(results).split())
    assert "failed" in said
    assert "the loss is nan" in said


def test_a_run_that_is_where_nobody_sees_it_is_running(results):
    (results / "dpo").mkdir()
    lock = RunLock(layout.away_path(results / "dpo" / "seed7"))
    assert lines(results)["dpo", "7"].split()[2:] == ["running", "a", "machine", "that", "does", "not", "see", "it"]
    lock.release()
    assert lines(results)["dpo", "7"].split()[2] == "waiting"


def test_runs_of_which_nothing_was_left_have_failed_and_say_why(tmp_path):
    record_failure(tmp_path / "results", "dpo", 3, "too few prompts")
    assert not (tmp_path / "results").exists()  # a mistake makes no folder
    (tmp_path / "results").mkdir()
    record_failure(tmp_path / "results", "dpo", 3, "too few prompts")
    assert lines(tmp_path / "results")["dpo", "3"].split()[2] == "failed"
    assert "dpo, seed 3: too few prompts" in " ".join(render_progress(tmp_path / "results").split())
    forget_failure(tmp_path / "results", "dpo", 3)
    assert list((tmp_path / "results").iterdir()) == []
    forget_failure(tmp_path / "results", "dpo", 3)  # nothing is there to forget
    with pytest.raises(ResultsError, match="no runs in"):
        render_progress(tmp_path / "results")


def test_nothing_there(tmp_path):
    with pytest.raises(ResultsError, match=r"no runs in .*nowhere"):
        render_progress(tmp_path / "nowhere")
    result = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert result.exit_code == 1
    assert "alignbench run RECIPE" in result.output
