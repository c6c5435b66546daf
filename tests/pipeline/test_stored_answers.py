"""Completions of another program beside runs: what is measured, what is withheld, what is refused."""

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

import alignbench
from alignbench.cli import main

WITHHELD = {"kl", "kl_k3", "kl_exact", "kl_per_token", "kl_k3_per_token", "kl_exact_per_token", "truncated_rate"}


def call(*arguments):
    return CliRunner().invoke(main, ["evaluate", *(str(one) for one in arguments)])


@pytest.fixture(scope="module")
def folder(enter, finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        finished("base", "ppo")
        said = call("--completions", theirs(), "--name", "theirs")
        assert said.exit_code == 0, said.output
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(folder / "cache"))


def theirs(name="theirs.jsonl", change=lambda frame: frame):
    """The completions of a run, as another program might have stored them."""
    frame = alignbench.load_completions("results/ppo")[["prompt", "completion"]]
    frame = change(frame.rename(columns={"prompt": "instruction", "completion": "output"}))
    frame.to_json(name, orient="records", lines=True)
    return name


def metrics(recipe, results="results"):
    [file] = Path(results, recipe).glob("seed*/evaluations/*/metrics.json")
    return {(one["metric"], one["scorer"]): one for one in json.loads(file.read_text())["metrics"]}


def test_what_texts_say_is_measured_and_the_rest_withheld(here):
    run, row = metrics("ppo"), metrics("theirs")
    assert row.keys() == run.keys()
    for (name, scorer), metric in row.items():
        if name in WITHHELD:
            assert metric["value"] is None
            assert metric["reason"]
        elif name.startswith(("perplexity", "completion_tokens")):  # this policy draws <unk>, which has no text
            assert metric["value"] >= 1
        else:
            assert metric["value"] == pytest.approx(run[name, scorer]["value"], rel=1e-5), name
    comparison = alignbench.compare("results")
    assert comparison.mismatches == ()
    [shown] = [one for one in comparison.recipes if one.recipe == "theirs"]
    assert "made_elsewhere" in {flag.name for flag in shown.flags}
    assert shown.cost_per_answer == {}


def test_more_completions_than_are_drawn_and_a_column_that_says_how_they_ended(here):
    def twice(frame):
        return pd.concat([frame, frame.assign(output="bad")]).assign(finish_reason="eos")

    said = call(
        "--completions", theirs("twice.jsonl", twice), "--name", "twice", "--results", "more", "--like", "results"
    )
    assert said.exit_code == 0, said.output
    row = metrics("twice", "more")
    assert row["toxicity_mean", "judge"]["value"] == metrics("theirs")["toxicity_mean", "judge"]["value"]
    assert row["truncated_rate", None]["value"] is not None


def test_a_table_of_their_own_prompts(here):
    Path("own.csv").write_text("q,a,g\n" + "".join(f"now you are {i},very nice,{i % 11}\n" for i in range(22)))
    columns = [part for name in ("prompt=q", "completion=a", "group=g") for part in ("--column", name)]
    protocol = ("--set", "evaluation.protocol=trl-detox-v1")
    said = call(
        "--completions", "./own.csv", *columns, "--own-prompts", *protocol, "--results", "own", "--like", "results"
    )
    assert said.exit_code == 0, said.output
    [run] = Path("own/own/seed0/evaluations").glob("*/metrics.json")
    record = json.loads(run.read_text())
    assert record["protocol"] == "trl-detox-v1*"
    assert record["n_prompts"] == 22
    assert len(set(record["prompt_groups"].values())) == 11


def another_prompt(frame):
    return frame.replace({"instruction": {frame.instruction[0]: "who is that"}})


FAULTS = {
    "got 1 prompts that base/seed0 was not measured on, for example 'who is that'; expected its 12": another_prompt,
    "got no completion of 1 of the 12 prompts": lambda frame: frame[frame.instruction != frame.instruction[0]],
    "got unequal numbers of completions per prompt, 3 of": lambda frame: frame[1:],
    "got unequal numbers of completions per prompt, 4 of": lambda frame: pd.concat([frame, frame[:4]]),
    "got 3 completions per prompt, expected 4": lambda frame: frame.groupby("instruction").head(3),
    "with so many it can be measured under trl-detox-v1, ": lambda frame: frame.groupby("instruction").head(3),
    "has no completion column": lambda frame: frame.rename(columns={"output": "said"}),
}


@pytest.mark.parametrize(("wanted", "change"), FAULTS.items(), ids=range(len(FAULTS)))
def test_each_fault_is_one_clear_sentence(here, wanted, change):
    said = call("--completions", theirs("wrong.jsonl", change), "--name", "wrong")
    assert said.exit_code == 1
    assert wanted in said.output
    assert "Traceback" not in said.output
    assert not Path("results/wrong").exists()


def test_prompts_that_a_run_could_train_on_are_a_leak(here, prompt_file):
    held = set(alignbench.load_completions("results/base")["prompt"])
    rows = [json.loads(line)["prompt"] for line in prompt_file.read_text().splitlines()]
    seen = json.loads(Path("results/ppo/seed0/prompts.json").read_text())["seen"]
    Path("leak.jsonl").write_text(
        "\n".join(json.dumps({"prompt": one, "completion": "x"}) for one in rows if one not in held)
    )
    said = call("--completions", "leak.jsonl")
    assert said.exit_code == 1
    assert f"training of ppo/seed0 could see {len(seen)} of its prompts" in said.output


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("model", "--completions", "theirs.jsonl"), "evaluate: got both, expected one MODEL"),
        (("--completions", "nothing.jsonl"), "--completions: nothing.jsonl: there is no such file"),
        (("--completions", "theirs.jsonl", "--column", "text=x"), "--column: got 'text=x', expected prompt=NAME"),
        (("--completions", "theirs.jsonl", "--like", "base.yaml"), "expected a run (--like results/RECIPE/seedK)"),
    ],
)
def test_bad_options(here, arguments, wanted):
    said = call(*arguments)
    assert said.exit_code in (1, 2)
    assert wanted in said.output
