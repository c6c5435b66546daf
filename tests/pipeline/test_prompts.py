"""What is measured on is a matter of policy, data and protocol; the method moves the training split alone."""

import json
from pathlib import Path

import pytest
import torch
from fixtures.cases import few_of_product

import alignbench
from alignbench.comparison.compare import compare
from alignbench.errors import DataError
from alignbench.pipeline import execute
from alignbench.pipeline.build import start_policy
from alignbench.pipeline.prompts import heldout_prompts, prepared_prompts
from alignbench.recipe.loading import load

LENGTHS = range(4, 41)
"""The policy takes 64 tokens: 34 leave room for the 30 that KL is measured on, 14 for completions of 50."""


@pytest.fixture
def long_prompts(recipe_folder, measure_kl_on, monkeypatch):
    """Recipes on prompts of 4 to 40 words, a dozen of each length."""
    measure_kl_on(30, monkeypatch)
    subjects = ("the dog", "a cat", "two birds", "one man", "the woman", "a rude bird")
    rows = [
        {"id": f"{n}-{i}", "prompt": " ".join([start, *subject.split(), *["sings"] * n][:n]), "toxicity": 0.5}
        for n in LENGTHS
        for i, (start, subject) in enumerate((start, subject) for start in ("now", "and") for subject in subjects)
    ]
    Path("long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = json.loads(Path("shared.yaml").read_text())
    shared["data"] = {"prompts": "long.jsonl", "heldout_fraction": 0.4}
    shared["evaluation"] |= {"n_prompts": None, "evaluate_every": 0}
    Path("shared.yaml").write_text(json.dumps(shared))
    return recipe_folder


def prepared(name, sets=()):
    """Prepared data and held-out prompts of a recipe."""
    recipe = load([f"{name}.yaml"], sets)[0].recipe
    policy = start_policy(recipe, {}, torch.device("cpu"))
    data = prepared_prompts(recipe, policy)
    return data, heldout_prompts(recipe, policy, data)


def longest(prompts):
    return max(len(prompt.text.split()) for prompt in prompts)


MOVED = {
    "ppo": ["method.completion_tokens=[4, 50]"],
    "dpo": ["pairs.completion_tokens=[4, 50]"],
    "reward_model": ["pairs.completion_tokens=[4, 50]", "budget.completions=8", "pairs.n_prompts=2"],
}


@pytest.mark.parametrize(
    ("name", "own_file"),
    few_of_product(
        {name: name for name in MOVED},
        {"split": False, "file": True},
        [("ppo", "split"), ("dpo", "file"), ("reward_model", "split")],
    ),
)
def test_longer_completions_in_training_cost_the_training_split_alone(long_prompts, name, own_file):
    sets = []
    if own_file:
        rows = [f"{line}\n" for line in Path("long.jsonl").read_text().splitlines()]
        Path("others.jsonl").write_text("".join(rows[1::2]))
        Path("long.jsonl").write_text("".join(rows[::2]))
        sets = ["data.heldout=others.jsonl"]
    base, held_by_base = prepared("base", sets)
    own, held = prepared(name, sets + MOVED[name])
    assert held == held_by_base
    assert own.validation == base.validation
    assert longest(held.prompts) == longest(base.train) == 34
    assert longest(own.train) == 14
    assert own.train == tuple(prompt for prompt in base.train if len(prompt.text.split()) <= 14)
    assert own.statistics["n_too_long_for_training"] == len(base.train) - len(own.train) > 0
    assert own.statistics["n_train"] == len(own.train)


def test_where_no_prompt_meets_the_limit_all_methods_train_on_the_same(long_prompts):
    cut = ["data.prompt_tokens=[4, 12]"]
    plain, longer = prepared("ppo", cut)[0], prepared("ppo", [*cut, *MOVED["ppo"]])[0]
    assert (plain.train, plain.validation, plain.heldout) == (longer.train, longer.validation, longer.heldout)


def test_prompts_of_the_evaluation_alone_do_not_depend_on_the_method_either(long_prompts):
    rows = [{"id": f"e{n}", "prompt": " ".join(["very"] * n)} for n in LENGTHS]
    Path("evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = ["evaluation.prompts=evaluation.jsonl"]
    held = [prepared(name, [*sets, *MOVED.get(name, [])])[1] for name in ("base", *MOVED)]
    assert all(one == held[0] for one in held)
    assert sorted(len(prompt.text.split()) for prompt in held[0].prompts) == list(range(4, 35))
    assert (held[0].rows.n_rows, held[0].rows.longest_prompt) == (len(rows), 34)
    assert held[0].rows.left_out == {"longer than the policy's context allows": 6}


@pytest.mark.parametrize("source", ["split", "file"])
def test_rows_left_out_are_those_of_the_source_that_is_measured_on(long_prompts, source):
    sets = ["data.heldout=others.jsonl"] if source == "file" else []
    Path("others.jsonl").write_text('{"prompt": "very old dog"}\n{"prompt": ""}\n{"prompt": "VERY old  dog"}\n')
    rows = prepared("base", sets)[1].rows
    if source == "file":
        assert (rows.n_rows, rows.left_out) == (3, {"without text": 1, "repeated": 1})
    else:  # 12 of each length, from 35 to 40
        assert rows.n_rows == 12 * len(LENGTHS)
        assert rows.left_out["longer than the policy's context allows"] == 72


def test_no_prompt_left_to_train_on_is_an_error_that_says_what_to_do(long_prompts):
    with pytest.raises(DataError, match=r"data.prompts: all \d+ prompts of the training split are longer than 3 tokens"
                       r".*data.prompt_tokens, or lower method.completion_tokens"):  # fmt: skip
        prepared("ppo", ["method.completion_tokens=[4, 61]"])
    with pytest.raises(DataError, match="longer than 0 tokens"):
        prepared("ppo", ["method.completion_tokens=[4, 90]"])


def test_base_and_a_method_with_longer_completions_share_a_table(long_prompts):
    few = "evaluation.n_prompts=40"
    recipes = load(["base.yaml"], [few]) + load(["ppo.yaml"], [few, *MOVED["ppo"]])
    outcomes = execute.run(recipes, Path("a"))
    assert [one.state for one in outcomes] == ["done"] * 2, [one.error for one in outcomes]
    comparison = compare("a")
    assert [row.recipe for row in comparison.recipes] == ["base", "ppo"]
    assert [note for note in comparison.notes if "72 longer than the policy's context allows" in note]
    base, ppo = (list(alignbench.load_completions(f"a/{name}")["prompt_id"]) for name in ("base", "ppo"))
    assert base == ppo


def test_held_out_pairs_are_of_all_held_out_prompts_whatever_the_budget(long_prompts):
    def held_out_of(results, *sets):
        (outcome,) = execute.run(load(["reward_model.yaml"], ["evaluation.n_prompts=40", *sets]), Path(results))
        assert outcome.state == "done", outcome.error
        return json.loads(Path(results, "reward_model/seed0/evaluations/reward-model/metrics.json").read_text())

    plain, poorer = held_out_of("a"), held_out_of("b", "budget.completions=16", "pairs.n_prompts=6")
    assert plain["comparability"] == poorer["comparability"]
    assert plain["n_prompts"] == poorer["n_prompts"] > 16  # 32 completions pay for pairs of 16 prompts
    longer = held_out_of("c", "pairs.completion_tokens=[40, 50]")
    reason = "longer than 14 tokens, what completions of pairs leave of the context"
    assert longer["prompt_rows"]["left_out"][reason] > 0
    assert longer["prompt_rows"]["left_out"].items() > plain["prompt_rows"]["left_out"].items()
