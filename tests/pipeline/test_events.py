"""The sums of status.json are the sums of events.jsonl, whatever happened to the run in between."""

import dataclasses
import json
from pathlib import Path

import pytest
from fixtures import reconciled
from fixtures.cases import few_of

import alignbench
from alignbench.methods.trl import arguments
from alignbench.pipeline import execute
from alignbench.recipe.loading import load
from alignbench.records import Cost
from alignbench.results.writer import RunDirectory
from alignbench.runtime.ledger import Ledger


def run(*names, results="results", sets=()):
    return execute.run(load([f"{name}.yaml" for name in names], sets), Path(results))


def status(recipe, results="results"):
    return reconciled.status(f"{results}/{recipe}/seed0")


def rows(recipe, results="results"):
    return reconciled.events(f"{results}/{recipe}/seed0")


def assert_reconciles(recipe, results="results"):
    reconciled.assert_reconciles(f"{results}/{recipe}/seed0")


def counts_of(cost):
    return {name: amount for name, amount in cost.items() if "seconds" not in name and "memory" not in name}


def test_every_method_reconciles(recipe_folder, finished):
    recipes = ("base", "ppo", "dpo", "reward_model", "ppo_learned_reward", "ppo_after_dpo")
    finished(*recipes)
    for recipe in recipes:
        assert_reconciles(recipe)
        assert status(recipe)["evaluation_cost"]["forward_flops"] > 0
    ppo = status("ppo")["cost"]
    events = rows("ppo")
    assert [(row["step"], row["event"]) for row in events if row["step"] is not None] == [
        (step, event) for step in (1, 2, 3, 4) for event in ("sample", "score", "forward", "train")
    ]
    assert [row["event"] for row in events if row["step"] is None] == ["machine", "evaluation"]
    assert ppo["prompts_seen"] == ppo["training_completions"] == ppo["reward_calls"] == 32
    assert ppo["trained_tokens"] == 2 * ppo["generated_tokens"]  # two epochs over what was sampled
    assert ppo["device_seconds"] > 0
    dpo = status("dpo")
    assert dpo["cost"]["generated_tokens"] == dpo["cost"]["generation_flops"] == dpo["cost"]["prompts_seen"] == 0
    assert dpo["upstream_cost"]["prompts_seen"] == 16
    assert dpo["upstream_cost"]["generation_flops"] > 0
    base = status("base")["cost"]
    assert counts_of(base) == counts_of(dataclasses.asdict(Cost()))
    frame = alignbench.load_events("results/ppo")
    assert frame["trained_tokens"].sum() == ppo["trained_tokens"]
    assert alignbench.load_results("results").set_index("recipe").loc["ppo", "backward_flops"] == ppo["backward_flops"]


def test_ppo_that_was_killed_reconciles(recipe_folder, finished, monkeypatch):
    """Killed while step 4 is booked, with a checkpoint at 2: steps 3 and 4 are run again."""
    sets = ["method.checkpoint_every=2", "evaluation.evaluate_every=16"]
    finished("ppo", results="straight", sets=sets)
    killed_once(monkeypatch, 4, "forward")
    assert run("ppo", sets=sets)[0].state == "failed"
    partial = Path("results/ppo/.seed0.partial/events.jsonl")
    with partial.open("a") as file:
        file.write('{"step": 4, "event": "forw')  # what a kill may leave
    assert run("ppo", sets=sets)[0].state == "done"
    of_training = [[dict(row, **SECONDS) for row in rows("ppo", root) if row["account"] == "cost"] for root in ROOTS]
    assert of_training[0] == of_training[1]
    assert_reconciles("ppo")
    assert counts_of(status("ppo")["cost"]) == counts_of(status("ppo", "straight")["cost"])


@pytest.mark.parametrize("name", few_of(["dpo", "reward_model"], ["dpo"]))
def test_a_trl_run_that_was_killed_reconciles(recipe_folder, monkeypatch, name):
    """Killed while step 18 is booked; checkpoints come every 5 steps here."""
    monkeypatch.setattr(arguments, "CHECKPOINT_EVERY", 5)
    sets = ["method.batch_size=1", "method.epochs=2"]
    assert run(name, results="straight", sets=sets)[0].state == "done"
    killed_once(monkeypatch, 18, "train")
    assert run(name, sets=sets)[0].state == "failed"
    assert run(name, sets=sets)[0].state == "done"
    n = status(name)["cost"]["optimizer_steps"]
    assert n > 18
    assert [row["step"] for row in rows(name) if row["event"] == "train"] == list(range(1, n + 1))
    assert_reconciles(name)
    assert counts_of(status(name)["cost"]) == counts_of(status(name, "straight")["cost"])


def test_killed_after_training_nothing_is_written_twice(recipe_folder, monkeypatch):
    killed_once(monkeypatch, None, "evaluation")
    assert run("ppo")[0].state == "failed"
    assert run("ppo")[0].state == "done"
    assert len({(row["step"], row["event"]) for row in rows("ppo")}) == len(rows("ppo")) == 4 * 4 + 2
    assert_reconciles("ppo")


def test_what_two_upstream_runs_share_is_charged_once(recipe_folder, finished):
    """A reward model and DPO learn from the same pairs; PPO goes on from both."""
    finished("dpo", "reward_model")
    both = json.loads(Path("ppo.yaml").read_text()) | {"name": "both"}
    both |= {"policy": {"run": "dpo"}, "reward": {"run": "reward_model"}}
    Path("both.yaml").write_text(json.dumps(both))
    outcomes = run("both")
    assert {outcome.recipe: outcome.state for outcome in outcomes} == {
        "dpo": "kept", "reward_model": "kept", "both": "done",
    }, [outcome.error for outcome in outcomes]  # fmt: skip
    assert status("both")["upstream_cost"]["training_completions"] == 32
    kinds = sorted(row["source"].split()[0] for row in rows("both") if row["event"] == "upstream")
    assert kinds == ["pairs", "run", "run"]
    steps = [status(name)["cost"]["optimizer_steps"] for name in ("dpo", "reward_model")]
    assert status("both")["upstream_cost"]["optimizer_steps"] == sum(steps)
    assert_reconciles("both")


ROOTS = ("results", "straight")
SECONDS = dict.fromkeys(("wall_seconds", "device_seconds", "peak_memory_gib"))


class KilledError(Exception):
    """Stands for a process that dies."""


def killed_once(monkeypatch, step, event):
    """The next run dies before it writes this event."""
    write, done = RunDirectory.log_event, []

    def dies(self, at, row):
        if (at, row["event"]) == (step, event) and not done:
            done.append(True)
            raise KilledError
        write(self, at, row)

    monkeypatch.setattr(RunDirectory, "log_event", dies)


def test_a_row_that_is_written_twice_would_be_seen(recipe_folder, monkeypatch):
    """The check above can fail: an event that is booked in the file alone breaks the sums."""
    book = Ledger.book

    def twice(self, step, event, amounts, account="cost"):
        book(self, step, event, amounts, account)
        if (step, event) == (2, "train"):
            self._write(step, {"event": event, "account": account, **amounts.amounts()})

    monkeypatch.setattr(Ledger, "book", twice)
    assert run("ppo")[0].state == "done"
    with pytest.raises(AssertionError):
        assert_reconciles("ppo")
