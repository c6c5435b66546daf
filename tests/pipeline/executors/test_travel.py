"""Runs that travel to a machine that does not see the results directory, and come back."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from alignbench.errors import UsageError
from alignbench.pipeline.executors import travel
from alignbench.pipeline.executors.base import Ended, Order
from alignbench.pipeline.executors.work import UnseenError, carry_out, written
from alignbench.pipeline.plan import plan
from alignbench.recipe.loading import load
from alignbench.results import layout
from alignbench.results.lock import RunLock

_RUNS = Path(__file__).parents[2] / "golden" / "results" / "v1_november"
PPO, REWARD = ("ppo_learned_reward", 0), ("reward_model", 0)


@pytest.fixture
def works(recipe_folder):
    """PPO on a reward model, of which the reward model is complete."""
    order = Order({one.key: one for one in plan(load(["ppo_learned_reward.yaml"]))}, recipe_folder / "results")
    with written(order) as works:
        shutil.copytree(_RUNS / "reward_model" / "seed0", works[REWARD].final)
        yield works


@contextmanager
def elsewhere(results):
    """A machine where something else lies under the path of the results directory: nothing, at first."""
    kept, other = results.with_name("kept"), results.with_name("other")
    results.rename(kept)
    if other.exists():
        other.rename(results)
    try:
        yield
    finally:
        if results.exists():
            results.rename(other)
        kept.rename(results)


def does(monkeypatch, what):
    monkeypatch.setattr(travel.in_place, "carry_out", what)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sent(works):
    luggage = [travel.of_own(works[PPO]), travel.of_complete(works[REWARD])]
    with elsewhere(works[PPO].results):
        ended, back = travel.carry_out(works[PPO], *luggage)
        left = works[PPO].final.exists() or works[PPO].partial.exists()
    assert not left
    travel.take_back(back, works[PPO])
    return ended


def test_a_run_takes_along_what_it_builds_on_and_comes_back_complete(works, monkeypatch):
    def run(work):
        assert [one.name for one in plan_of(work)] == ["reward_model", "ppo_learned_reward"]
        assert contents(works[REWARD].final) == contents(_RUNS / "reward_model" / "seed0")
        shutil.copytree(_RUNS / "ppo_detox" / "seed0", work.final)
        return Ended("done", work.final)

    def plan_of(work):
        return [one.recipe for one in plan(load([str(work.recipe)]))]

    does(monkeypatch, run)
    ended = sent(works)
    assert ended == Ended("done", works[PPO].final)
    assert contents(works[PPO].final) == contents(_RUNS / "ppo_detox" / "seed0")
    assert not works[PPO].partial.exists()
    jobs = works[PPO].results / layout.JOBS
    assert [path.name for path in jobs.iterdir()] == [works[PPO].recipe.parents[2].name]  # nothing is left of the way


def test_a_failed_run_comes_back_with_its_checkpoint_and_takes_it_along_again(works, monkeypatch):
    found = []

    def run(work):
        checkpoint = work.partial / layout.CHECKPOINTS / "step3"
        found.append(checkpoint.exists())
        if not checkpoint.exists():
            shutil.copytree(_RUNS / "ppo_detox" / ".seed2.partial", work.partial)
            checkpoint.mkdir(parents=True)
            (checkpoint / "state").write_bytes(b"weights")
        return Ended("failed", may_retry=True)

    does(monkeypatch, run)
    for _ in range(2):
        sent(works)
        assert (works[PPO].partial / layout.CHECKPOINTS / "step3" / "state").read_bytes() == b"weights"
    assert found == [False, True]


def test_a_run_that_is_replaced_is_there_until_the_other_is_complete(works, monkeypatch):
    shutil.copytree(_RUNS / "base" / "seed0", works[PPO].final)

    def run(work):
        shutil.copytree(_RUNS / "ppo_detox" / "seed0", work.final)
        return Ended("done", work.final)

    does(monkeypatch, run)
    sent(works)
    assert contents(works[PPO].final) == contents(_RUNS / "ppo_detox" / "seed0")
    assert [path.name for path in works[PPO].final.parent.iterdir()] == ["seed0"]


def test_what_another_run_has_brought_stays_and_what_is_not_the_same_is_replaced(works, monkeypatch):
    seen = []

    def run(work):
        seen.append((works[REWARD].final.stat().st_ino, contents(works[REWARD].final)))
        return Ended("failed")

    does(monkeypatch, run)
    sent(works)
    sent(works)
    status = works[REWARD].final / layout.STATUS_FILE
    status.write_text(status.read_text().replace('"seed": 0', '"seed": 0 '))
    sent(works)
    assert seen[0] == seen[1]
    assert seen[2][0] != seen[0][0]
    assert seen[2][1] == contents(works[REWARD].final) != seen[0][1]


def test_what_a_killed_attempt_has_left_there_is_in_nobodys_way(works, monkeypatch):
    results, left = works[PPO].results, []
    with elsewhere(results):
        works[PPO].partial.mkdir(parents=True)

    def run(work):
        left.append(work.partial.exists())
        return Ended("failed")

    does(monkeypatch, run)
    sent(works)
    assert left == [False]


def test_a_run_that_another_command_has_there_is_left_alone(works):
    with elsewhere(works[PPO].results):
        works[PPO].partial.mkdir(parents=True)
        lock = RunLock(layout.lock_path(works[PPO].final))
        assert travel.carry_out(works[PPO], {}) == (Ended("held"), {})
        assert works[PPO].partial.exists()
        lock.release()


def test_where_the_results_directory_is_seen_nothing_travels(works, monkeypatch):
    does(monkeypatch, lambda work: Ended("done", work.final))
    assert travel.carry_out(works[PPO], travel.of_own(works[PPO])) == (Ended("done", works[PPO].final), {})


def test_a_machine_that_does_not_see_it_says_so(works):
    with elsewhere(works[PPO].results):
        ended, luggage = travel.carry_out(works[PPO])
    assert isinstance(ended.error, UnseenError)
    assert str(works[PPO].results) in str(ended.error)
    assert luggage == {}


def test_a_directory_that_cannot_be_made_there(works):
    luggage = travel.of_own(works[PPO])
    results = works[PPO].results
    with elsewhere(results):
        results.write_text("a file")
        ended, _ = travel.carry_out(works[PPO], luggage)
        results.unlink()
    assert isinstance(ended.error, UsageError)
    assert "choose another --results" in str(ended.error)
    assert not ended.may_retry


def test_work_says_when_its_recipe_is_not_there(works):
    works[PPO].recipe.unlink()
    assert isinstance(carry_out(works[PPO]).error, UnseenError)
