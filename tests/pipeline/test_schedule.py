"""Which run begins when, and what becomes of those that fail, die, are held by others, or are interrupted."""

import heapq
from pathlib import Path

import pytest

from alignbench.errors import AlignbenchError, InputsError, Problem, RecipeError, UsageError
from alignbench.pipeline import schedule
from alignbench.pipeline.executors.base import Ended, Order
from alignbench.pipeline.plan import plan
from alignbench.pipeline.schedule import Schedule
from alignbench.recipe.loading import load
from alignbench.results import layout
from alignbench.results.failures import read_failures
from alignbench.results.lock import RunLock


class Scripted:
    """Carries nothing out: each run ends as the script says, the oldest first, one at a time."""

    def __init__(self, script=None, room=9):
        self.script, self.room = script or {}, room
        self.begun, self.under_way, self.most, self.stops = [], [], 0, []

    def has_room(self):
        return len(self.under_way) < self.room

    def submit(self, key):
        self.begun.append(key[0])
        self.under_way.append(key)
        self.most = max(self.most, len(self.under_way))

    def wait(self, seconds):
        key = self.under_way.pop(0)
        said = self.script.get(key[0], [Ended("done", Path(key[0]))])
        ended = said.pop(0) if len(said) > 1 else said[0]
        if isinstance(ended, BaseException):
            self.under_way.append(key)
            raise ended
        return [(key, ended)]

    def stop(self, *, at_once):
        self.stops.append(at_once)


@pytest.fixture
def order(recipe_folder):
    """Two that build on nothing, and PPO on one of them."""
    loaded = load(["base.yaml", "ppo_learned_reward.yaml", "ppo.yaml"])
    return Order({one.key: one for one in plan(loaded)}, recipe_folder / "results")


DIED = Ended("failed", error=AlignbenchError("its worker ended with signal SIGKILL"), may_retry=True)


def carried_out(order, executor, **settings):
    return {one.recipe: one for one in Schedule(order, executor, **settings).carry_out()}


def test_a_run_begins_when_what_it_builds_on_is_complete(order):
    executor = Scripted()
    outcomes = carried_out(order, executor)
    assert list(outcomes) == [key[0] for key in order.planned]
    assert {one.state for one in outcomes.values()} == {"done"}
    assert executor.begun.index("reward_model") < executor.begun.index("ppo_learned_reward")
    assert executor.most == 3  # base, reward model and PPO side by side
    assert executor.begun[-1] == "ppo_learned_reward"


def test_no_more_at_a_time_than_there_is_room_for(order):
    executor = Scripted(room=1)
    carried_out(order, executor)
    assert executor.most == 1


def test_what_builds_on_a_failed_run_fails_and_the_rest_goes_on(order):
    executor = Scripted({"reward_model": [Ended("failed", error=UsageError("no such label"))]})
    outcomes = carried_out(order, executor, retries=5)
    assert executor.begun.count("reward_model") == 1  # a user's error is never tried again
    assert isinstance(outcomes["reward_model"].error, UsageError)
    assert str(outcomes["ppo_learned_reward"].error) == "not run: reward_model (seed 0), which it builds on, failed"
    assert outcomes["base"].state == outcomes["ppo"].state == "done"


@pytest.mark.parametrize(("retries", "state"), [(0, "failed"), (1, "failed"), (2, "done")])
def test_a_run_that_died_is_tried_again(order, retries, state):
    executor = Scripted({"ppo": [DIED, DIED, Ended("done", Path("ppo"))]})
    outcomes = carried_out(order, executor, retries=retries)
    assert outcomes["ppo"].state == state
    assert executor.begun.count("ppo") == retries + 1


class Timed(Scripted):
    """Two at a time by a clock of its own: each run takes the seconds it is said to."""

    def __init__(self, seconds):
        super().__init__(room=2)
        self.seconds, self.now = seconds, 0.0

    def submit(self, key):
        self.begun.append(key[0])
        heapq.heappush(self.under_way, (self.now + self.seconds[key[0]], key))

    def wait(self, seconds):
        self.now, key = heapq.heappop(self.under_way)
        return [(key, Ended("done", Path(key[0])))]


def test_what_most_is_left_to_do_behind_begins_first(tmp_path):
    loaded = load(["quickstart"])
    quickstart = Order({one.key: one for one in plan(loaded)}, tmp_path)
    # CPU seconds that they took after one another on one thread of a shared Intel Xeon, rounded
    seconds = {"base": 5, "ppo_detox": 16, "ppo_no_kl": 17, "dpo_classifier_pairs": 6, "reward_model": 3}
    seconds["ppo_learned_reward"] = 12
    listed, longest_first = Timed(seconds), Timed(seconds)
    carried_out(quickstart, listed)
    outcomes = carried_out(quickstart, longest_first, longest_first=True)
    assert list(outcomes) == [key[0] for key in quickstart.planned]  # told as they are listed
    assert longest_first.begun[0] == "reward_model"  # PPO on it is the longest way
    assert longest_first.begun[-1] == "base"
    assert listed.now == 37  # by hand: PPO on the reward model from second 25 on, with nothing left beside it
    assert longest_first.now == 31  # two workers could do no better than 29.5


def test_a_run_that_another_process_has_is_waited_for_while_others_go_on(order, monkeypatch):
    path = layout.run_path(order.results, "base", 0)
    path.parent.mkdir(parents=True)
    lock, waits = RunLock(layout.lock_path(path)), []

    def sleep(seconds):
        waits.append(seconds)
        lock.release()  # the other one has ended

    monkeypatch.setattr(schedule, "sleep", sleep)
    executor = Scripted({"base": [Ended("kept", path)]})
    outcomes = carried_out(order, executor)
    assert executor.begun[-1] == "base"
    assert waits == [schedule.PATIENCE]
    assert outcomes["base"].state == "kept"
    assert all(one.error is None for one in outcomes.values())


def test_a_run_that_was_taken_in_between_is_waited_for_too(order):
    executor = Scripted({"base": [Ended("held"), Ended("kept", Path("base"))]})
    assert carried_out(order, executor)["base"].state == "kept"
    assert executor.begun.count("base") == 2


def test_a_run_that_was_taken_in_between_has_all_its_tries_left(order):
    executor = Scripted({"base": [Ended("held"), DIED, Ended("done", Path("base"))]})
    assert carried_out(order, executor, retries=1)["base"].state == "done"


def test_a_run_that_another_process_has_sent_away_is_waited_for(order, monkeypatch):
    path = layout.run_path(order.results, "base", 0)
    path.parent.mkdir(parents=True)
    lock = RunLock(layout.away_path(path))
    monkeypatch.setattr(schedule, "sleep", lambda _: lock.release())
    executor = Scripted()
    carried_out(order, executor)
    assert executor.begun[-1] == "base"


def test_why_a_run_failed_is_kept_until_it_begins_again(order):
    order.results.mkdir()
    carried_out(order, Scripted({"reward_model": [Ended("failed", error=UsageError("no such label"))]}))
    not_run = "not run: reward_model (seed 0), which it builds on, failed"
    assert read_failures(order.results) == {("ppo_learned_reward", 0): not_run, ("reward_model", 0): "no such label"}
    carried_out(order, Scripted())
    assert read_failures(order.results) == {}


def test_an_interrupt_lets_what_is_under_way_end_and_begins_nothing_more(order):
    executor = Scripted({"base": [KeyboardInterrupt()], "reward_model": [Ended("stopped")]}, room=2)
    executor.script["base"].append(Ended("stopped"))
    with pytest.raises(KeyboardInterrupt):
        carried_out(order, executor)
    assert executor.stops == [False]
    assert executor.begun == ["base", "reward_model"]
    assert executor.under_way == []


def test_a_second_interrupt_ends_all_at_once(order):
    executor = Scripted({"base": [KeyboardInterrupt(), KeyboardInterrupt()]})
    executor.script["reward_model"] = executor.script["ppo"] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        carried_out(order, executor)
    assert executor.stops == [False, True]


@pytest.mark.parametrize(
    "error", [InputsError(["a.csv: gone", "b.csv: gone"]), RecipeError([Problem("x.yaml: seed", "-1", "0 or more")])]
)
def test_an_error_comes_back_from_another_process_as_it_was(error):
    import pickle

    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.problems == error.problems
