"""Suites, seeds and names."""

from __future__ import annotations

import pytest
from fixtures.recipe_texts import DPO, PPO, SHARED, one, problems

from alignbench.errors import UsageError
from alignbench.recipe.loading import load


def test_one_recipe_per_recipe_and_seed_in_order(write):
    loaded = load([write("ppo.yaml", PPO), write("dpo.yaml", DPO)], seeds=[2, 0, 2])
    assert [(one.name, one.recipe.seed) for one in loaded] == [
        ("my_ppo", 2),
        ("my_ppo", 0),
        ("my_dpo", 2),
        ("my_dpo", 0),
    ]


def test_negative_seed(write):
    (problem,) = problems(write("ppo.yaml", PPO), seeds=[-1])
    assert problem == "--seed: seed: got -1, expected at least 0"


def test_another_name(write):
    first, second = write("ppo.yaml", PPO), write("dpo.yaml", DPO)
    assert one(first, name="other").name == "other"
    (problem,) = problems(first, name="a/b")
    assert problem.startswith('--name: name: got "a/b", expected a plain word')
    with pytest.raises(UsageError, match="--name x: names one recipe, and 2 were given"):
        load([first, second], name="x")


def test_the_same_recipe_twice_runs_once_and_two_under_one_name_are_refused(write):
    first = write("ppo.yaml", PPO)
    assert len(load([first, first])) == 1
    (problem,) = problems(first, write("other.yaml", PPO + "budget: {completions: 1}\n"))
    assert problem.startswith("other.yaml: name: got 'my_ppo', the name of ppo.yaml as well")


def test_suite_expands(write):
    write("ppo.yaml", PPO)
    write(
        "s/suite.yaml",
        """
        name: comparison
        description: two kinds of PPO
        overrides: {extends: block.yaml, budget: {completions: 64}}
        recipes:
          - ../ppo.yaml
          - base
          - {recipe: ../ppo.yaml, name: strong, overrides: {extends: strong.yaml, method: {gamma: 0.5}}}
        seeds: [4, 5]
        """,
    )
    write("s/block.yaml", SHARED.replace("some/model", "block/model") + "budget: {completions: 1}\n")
    write("s/strong.yaml", "method: {kl_coef: 9, gamma: 0.1}\n")
    loaded = [one.recipe for one in load(["s/suite.yaml"])]
    names = [(recipe.name, recipe.seed) for recipe in loaded]
    assert names == [(name, seed) for name in ("my_ppo", "base", "strong") for seed in (4, 5)]
    assert {recipe.policy.model for recipe in loaded} == {"block/model"}
    assert {recipe.budget.completions for recipe in loaded} == {64}
    assert [getattr(recipe.method, "kl_coef", None) for recipe in loaded[::2]] == [0.2, None, 9.0]
    assert loaded[4].method.gamma == 0.5
    assert loaded[4].method.batch_size == 8
    assert [one.recipe.seed for one in load(["s/suite.yaml"], seeds=[1])] == [1, 1, 1]


@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        ("name: s\nrecipes: []\n", "suite.yaml: recipes: got [], expected at least 1 values"),
        ("name: s\nrecipes: ppo.yaml\n", 'suite.yaml: recipes: got "ppo.yaml", expected a list'),
        ("recipes: [ppo.yaml]\n", "suite.yaml: name: got nothing"),
        ("name: s\nrecipes: [ppo.yaml]\nseed: [1]\n", "suite.yaml: seed: got an unknown key, expected one of desc"),
        ("name: s\nrecipes: [ppo.yaml]\nseeds: [-1]\n", "suite.yaml: seeds.0: got -1, expected at least 0"),
        ("name: s\nrecipes: [{recpe: ppo.yaml}]\n", "suite.yaml: recipes.0.recipe: got nothing"),
        ("name: s\nrecipes: [ppo.yaml]\noverrides: {method: {gamma: 1}}\n", "suite.yaml: overrides.method: got"),
        ("name: s\nrecipes: [ppo.yaml]\noverrides: {name: x}\n", "suite.yaml: overrides.name: got"),
        (
            "name: s\nrecipes: [{recipe: ppo.yaml, overrides: {seed: 1}}]\n",
            "suite.yaml: recipes.0.overrides.seed: got 1",
        ),
        ("name: s\nrecipes: [suite.yaml]\n", "suite.yaml: recipes.0: got the suite suite.yaml"),
        (
            "name: s\nrecipes: [ppo.yaml, {recipe: ppo.yaml, overrides: {method: {gamma: 0}}}]\n",
            "ppo.yaml: name: got 'my",
        ),
    ],
)
def test_wrong_suite(write, suite, expected):
    write("ppo.yaml", PPO)
    assert problems(write("suite.yaml", suite))[0].startswith(expected)


def test_suite_with_a_missing_recipe(write):
    with pytest.raises(UsageError, match=r"suite\.yaml: recipes\.1: no file 'bse'.*did you mean 'base'"):
        load([write("suite.yaml", "name: s\nrecipes: [base, bse]\n")])
