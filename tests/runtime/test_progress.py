from __future__ import annotations

import io
import json
import logging
import sys

import pytest

from alignbench.runtime import logs, progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before():
    """There is one terminal and one log: each test begins with nothing shown, and leaves both as they were."""
    root, ours = logging.getLogger(), logging.getLogger("alignbench")
    handlers, level, own_level = root.handlers[:], root.level, ours.level
    progress.run_begins("")
    yield
    progress.run_begins("")
    progress.use_bar(True)
    root.handlers = [one for one in root.handlers if one in handlers]
    root.setLevel(level)
    ours.setLevel(own_level)


def _clock(monkeypatch, seconds: list[float]) -> None:
    times = iter(seconds)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))


def test_lines_come_ever_more_seldom_and_say_how_far_it_is(monkeypatch, capsys):
    logs.set_up(logging.INFO)
    # Begun at 0 s; steps end at 5, 11 (said: ten seconds without a line), 20, 31 (said: twenty more), and all at 40.
    _clock(monkeypatch, [0.0, 5.0, 11.0, 20.0, 31.0, 40.0])
    with progress.progress_bar("PPO", total=8, done=4) as advance:
        for _ in range(4):
            advance()
    assert capsys.readouterr().err.splitlines() == [
        "PPO ...",
        "PPO: 6 of 8 (75 %), 0:11 left",  # two of its own steps in 11 s, two to go
        "PPO: 8 of 8 (100 %), 0:00 left",
        "PPO: 40.0 s",
    ]


def test_what_was_measured_last_and_what_a_kill_would_go_on_from(monkeypatch, capsys):
    logs.set_up(logging.INFO)
    progress.run_begins("ppo, seed 0")
    progress.show(reward=1.23456, KL=None)
    progress.checkpoint_at(None)
    _clock(monkeypatch, [0.0, 3700.0, 7400.0, 7400.0])
    with progress.progress_bar("PPO", total=3) as advance:
        advance()
        progress.show(KL=0.5)
        progress.checkpoint_at(2)
        advance()
    first, second = capsys.readouterr().err.splitlines()[1:3]
    assert first == "PPO: 1 of 3 (33 %), 2:03:20 left; reward 1.23, Ctrl-C: no checkpoint yet"
    assert second == "PPO: 2 of 3 (67 %), 1:01:40 left; reward 1.23, KL 0.5, Ctrl-C: goes on from step 2"


def test_the_next_run_forgets_what_was_shown_of_the_one_before():
    progress.run_begins("a, seed 0")
    progress.checkpoint_at(7)
    assert progress.after_interrupt().endswith("goes on with a, seed 0 from its checkpoint at step 7.")
    progress.run_begins("b, seed 0")
    assert "b, seed 0 had no checkpoint yet, so the same command begins it anew" in progress.after_interrupt()


def test_a_log_line_is_whole_above_the_bar_of_a_terminal(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    logs.set_up(logging.INFO)
    progress.run_begins("ppo, seed 0")
    with progress.progress_bar("PPO", total=2) as advance:
        logging.getLogger("alignbench.any").warning("the reward is odd")
        progress.show(reward=2.0)
        advance()
    lines = terminal.getvalue().replace("\r", "\n").split("\n")
    assert any(line.removeprefix("\x1b[2K") == "the reward is odd" for line in lines)
    assert any("ppo, seed 0: PPO" in line and "1/2" in line and "reward 2" in line for line in lines)


@pytest.mark.parametrize("quiet", [True, False])
def test_no_bar_where_lines_are_asked_for(monkeypatch, quiet):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    logs.set_up(logging.WARNING if quiet else logging.INFO)
    progress.use_bar(False)
    with progress.progress_bar("PPO", total=1) as advance:
        advance()
    assert terminal.getvalue().splitlines()[:1] == ([] if quiet else ["PPO ..."])
    assert "\x1b" not in terminal.getvalue()


def test_a_json_line_holds_the_progress_as_numbers(monkeypatch, capsys):
    logs.set_up(logging.INFO, as_json=True)
    progress.run_begins("ppo, seed 0")
    progress.show(reward=1.5)
    _clock(monkeypatch, [0.0, 20.0, 20.0])
    with progress.progress_bar("PPO", total=4) as advance:
        advance()
    logging.getLogger("alignbench.x").error("broken:\n%s", "ü")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[1]["progress"] == {
        "done": 1, "total": 4, "seconds_left": 60.0, "run": "ppo, seed 0", "reward": 1.5, "checkpoint": None,
    }  # fmt: skip
    assert lines[-1]["level"] == "error"
    assert lines[-1]["message"] == "broken:\nü"
    assert {"time", "logger"} <= lines[-1].keys()


def test_a_json_line_holds_the_traceback_of_an_unexpected_error(capsys):
    logs.set_up(logging.INFO, as_json=True)
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("alignbench.x").exception("unexpected")
    assert "ValueError: no" in json.loads(capsys.readouterr().err)["exception"]
