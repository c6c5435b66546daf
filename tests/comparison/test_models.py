"""Runs on several base models: a table each, nothing across, and what carries over."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.comparison.compare import compare
from alignbench.comparison.formats import render
from alignbench.comparison.models import Block, across
from alignbench.errors import ComparabilityError, ResultsError, UsageError

N = 60
RECIPE = "name: {recipe}\nmethod: {{kl_coef: 0.2}}\npolicy: {{model: {model}, revision: null}}\n"


@pytest.fixture
def add(tmp_path, add_run, comparability):
    """Writes a run on a model: its name, its weights' hash, and what is changed in the conditions."""
    base = np.random.default_rng(1).uniform(0.3, 0.7, N)

    def write(recipe, model, change, weights=None, root=None, seed=0, **conditions):
        rng = np.random.default_rng((len(recipe), len(model), seed))
        columns = {"toxicity_mean@judge": base + change + rng.normal(0, 0.02, N)}
        same = comparability | {"base_model": weights or f"hash of {model}"} | conditions
        said = RECIPE.format(recipe=recipe, model=model)
        add_run(
            tmp_path / (root or model.replace("/", "_")),
            recipe,
            columns,
            seed=seed,
            comparability=same,
            resolved_recipe=said,
        )

    return write


@pytest.fixture
def three_sizes(add):
    """PPO helps on all, DPO on two of three and before PPO on one of them; their names are the same on each."""
    for model, ppo, dpo in (("small", -0.1, -0.2), ("medium", -0.2, -0.1), ("large", -0.1, 0.0)):
        add("untrained", model, 0.0)
        add("ppo", model, ppo)
        add("dpo", model, dpo)


def test_each_model_is_a_block_with_a_baseline_of_its_own(tmp_path, three_sizes):
    found = compare([tmp_path / one for one in ("small", "medium", "large")])
    assert [block.model for block in found.blocks] == ["small", "medium", "large"]
    assert [block.baseline for block in found.blocks] == ["untrained"] * 3
    assert (found.recipes, found.key, found.answer) == ((), None, None)
    for block in found.blocks:  # the very numbers that it has alone
        alone = compare(tmp_path / block.model)
        assert block.recipes == alone.recipes
        assert block.answer.sentences == alone.answer.sentences
        assert [pair.measurement for pair in block.ranking.pairs] == [pair.measurement for pair in alone.ranking.pairs]


def test_in_how_many_models_a_method_was_better(tmp_path, three_sizes):
    found = compare([tmp_path / one for one in ("small", "medium", "large")]).across
    assert found.counts("ppo") == (3, 0, 0)
    assert found.counts("dpo") == (2, 0, 1)
    assert found.turned == (("dpo", "ppo"),)
    assert found.carries_over == "The order does not carry over: dpo and ppo change places from model to model."


def test_every_format_has_all_models(tmp_path, three_sizes):
    comparison = compare([tmp_path / one for one in ("small", "large")])
    records = json.loads(render(comparison, "json"))
    rows = list(csv.DictReader(io.StringIO(render(comparison, "csv"))))
    assert {r["model"] for r in records} == {r["model"] for r in rows} == {"small", "large"}
    assert len(comparison.frame()) == len(records)
    for style in ("table", "details", "markdown", "latex", "html-fragment"):
        text = render(comparison, style)
        assert all(one in text for one in ("small", "large", "undecided", "ppo"))


def test_a_single_model_is_one_table(tmp_path, three_sizes):
    found = compare(tmp_path / "small")
    assert (found.blocks, found.across, found.model) == ((), None, None)


def test_the_baseline_that_was_asked_for(tmp_path, add, three_sizes):
    add("sft", "small", -0.05)
    found = compare([tmp_path / one for one in ("small", "large")], baseline="sft")
    assert [block.baseline for block in found.blocks] == ["sft", "untrained"]
    with pytest.raises(UsageError, match="got 'stf', expected one of dpo, ppo, sft, untrained, did you mean 'sft'"):
        compare([tmp_path / one for one in ("small", "large")], baseline="stf")


def test_within_a_model_comparability_is_as_strict_as_ever(tmp_path, add, three_sizes):
    add("sft", "small", -0.05, precision="bfloat16")
    with pytest.raises(ComparabilityError, match="precision"):
        compare([tmp_path / one for one in ("small", "large")])


def test_other_weights_under_one_name_do_not_belong_together(tmp_path, add):
    add("untrained", "small", 0.0)
    add("ppo", "small", -0.1, weights="others")
    with pytest.raises(ComparabilityError, match="base_model: others in ppo/seed0; hash of small in untrained"):
        compare(tmp_path / "small")


def test_the_same_weights_at_two_paths_are_one_model(tmp_path, add):
    for recipe, model, change in (("untrained", "/here/m", 0.0), ("ppo", "/there/m", -0.1)):
        add(recipe, model, change, weights="same", root="all")
    assert compare(tmp_path / "all").blocks == ()


def test_a_run_twice_is_refused_in_one_model_only(tmp_path, add, three_sizes):
    add("ppo", "small", -0.1, root="again")
    with pytest.raises(ResultsError, match="ppo/seed0 occurs twice"):
        compare([tmp_path / one for one in ("small", "large", "again")])


def test_models_that_were_measured_otherwise_are_said_to_be(tmp_path, add, three_sizes):
    for recipe, change in (("untrained", 0.0), ("ppo", -0.1)):
        add(recipe, "huge", change, heldout_prompts="others")
    found = compare([tmp_path / one for one in ("small", "huge")])
    assert found.notes == ("Models differ in more than their weights: heldout_prompts.",)
    assert found.notes[0] in render(found)


def test_the_command_line(tmp_path, three_sizes):
    result = CliRunner().invoke(main, ["compare", *(str(tmp_path / one) for one in ("small", "large"))])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line for line in lines if line.startswith("MODEL ")] == ["MODEL  small", "MODEL  large"]
    (row,) = (line for line in lines if line.startswith("dpo ") and line.split()[-3:] == ["1", "0", "1"])
    assert "not distinguishable" in row


def block(model, methods, verdicts):
    return Block(model, methods, verdicts, None)


def test_rows_of_other_names_are_told_apart_by_their_method():
    blocks = [
        block("a", {"ppo_a": "ppo", "x_a": "dpo", "y_a": "dpo"}, {"ppo_a": "better", "x_a": "worse", "y_a": None}),
        block("b", {"ppo_b": "ppo", "x_b": "dpo"}, {"ppo_b": "not distinguishable", "x_b": "better"}),
    ]
    found = across(blocks)
    assert found.verdicts == {
        "ppo": {"a": "better", "b": "not distinguishable"}, "x_a": {"a": "worse"}, "x_b": {"b": "better"},
    }  # fmt: skip
    assert found.counts("ppo") == (1, 0, 1)
    assert found.carries_over == "No two methods were compared on two models."
