"""What a recipe is made of: files, extended files, suites and the command line, in their order."""

from __future__ import annotations

import pytest
from fixtures.recipe_texts import PPO, SHARED, one, problems

from alignbench.errors import UsageError
from alignbench.recipe.loading import load


def test_precedence_from_extended_file_to_command_line(write):
    write("blocks/shared.yaml", SHARED + "budget: {completions: 1}\nseed: 1\nhardware: {threads: 1}\n")
    write(
        "ppo.yaml",
        "extends: blocks/shared.yaml\nname: my_ppo\nmethod: {name: ppo}\nbudget: {completions: 2}\nseed: 2\n",
    )
    suite = "name: s\noverrides: {budget: {completions: 3}}\nseeds: [3]\nrecipes: [%s]\n"
    write("suite.yaml", suite % "ppo.yaml")
    write("entry.yaml", suite % "{recipe: ppo.yaml, overrides: {budget: {completions: 4}}}")

    def settings(argument: str, **options: object) -> tuple[int, int, int | None]:
        recipe = one(argument, **options)
        return recipe.budget.completions, recipe.seed, recipe.hardware.threads

    assert settings("ppo.yaml") == (2, 2, 1)
    assert settings("suite.yaml") == (3, 3, 1)
    assert settings("entry.yaml") == (4, 3, 1)
    assert settings("entry.yaml", sets=["budget.completions=5"]) == (5, 3, 1)
    assert settings("entry.yaml", sets=["budget.completions=5", "budget.completions=6"]) == (6, 3, 1)
    assert settings("entry.yaml", sets=["seed=7"]) == (4, 7, 1)
    assert settings("entry.yaml", sets=["seed=7"], seeds=[8]) == (4, 8, 1)
    assert settings("entry.yaml", sets=["hardware.threads=null"]) == (4, 3, None)


def test_mappings_merge_lists_and_null_replace(write):
    write("shared.yaml", SHARED + "chat: {system: hello, template: t}\n")
    recipe = one(
        write(
            "ppo.yaml",
            "extends: shared.yaml\nname: a\nmethod: {name: untrained}\n"
            "policy: {dtype: bfloat16}\nchat: {system: null}\n"
            "evaluation: {scorers: [{classifier: other, label: bad}]}\n",
        )
    )
    assert (recipe.policy.model, recipe.policy.dtype) == ("some/model", "bfloat16")
    assert (recipe.chat.system, recipe.chat.template) == (None, "t")
    assert [scorer.classifier for scorer in recipe.evaluation.scorers] == ["other"]
    assert recipe.evaluation.protocol == "rtp-v1"


def test_extends_is_sought_beside_the_file_and_then_among_the_shipped(write, tmp_path):
    text = "extends: _shared/gpt_neo_125m.yaml\nname: a\nmethod: {name: untrained}\n"
    write("deep/a.yaml", text)
    assert one("deep/a.yaml").policy.model == "EleutherAI/gpt-neo-125m"
    write("deep/_shared/gpt_neo_125m.yaml", SHARED)
    assert one("deep/a.yaml").policy.model == "some/model"


def test_extends_that_cannot_be_used(write):
    with pytest.raises(UsageError, match=r"a\.yaml: extends: no file 'nowhere\.yaml'"):
        load([write("a.yaml", "extends: nowhere.yaml\n")])
    write("one.yaml", "extends: two.yaml\n")
    (problem,) = problems(write("a.yaml", "extends: one.yaml\n"))
    assert problem.startswith("a.yaml: extends: got 'one.yaml', which extends another file itself")
    (problem,) = problems(write("a.yaml", "extends: [one.yaml, two.yaml]\n"))
    assert problem.startswith("a.yaml: extends: got ['one.yaml', 'two.yaml'], expected the path of one file")
    (problem,) = problems(write("a.yaml", PPO), sets=["extends=one.yaml"])
    assert problem.startswith("--set extends: got")


def test_problems_name_the_place_that_set_the_key(write):
    write("shared.yaml", SHARED + "budget: {completions: 0}\n")
    write("ppo.yaml", "extends: shared.yaml\nname: my_ppo\nmethod: {name: ppo, gamma: 2}\n")
    write("suite.yaml", "name: s\noverrides: {hardware: {threads: 0}}\nrecipes: [ppo.yaml]\n")
    assert [problem.partition(": got")[0] for problem in problems("suite.yaml", sets=["seed=x"])] == [
        "ppo.yaml: method.gamma",
        "shared.yaml: budget.completions",
        "suite.yaml: overrides: hardware.threads",
        "--set: seed",
    ]


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("seed", "--set: got 'seed', expected key=value"),
        ("=1", "--set: got '=1', expected key=value"),
        ("policy..model=x", "--set: got 'policy..model=x', expected key=value"),
        ("seed=", "--set seed: got no value, expected seed=null"),
        ("seed=[1", "--set seed, line 1, column 3: got a syntax error"),
        ("seed=010", "--set seed, line 1, column 1: got the number 010"),
        ("name.a=1", '--set: name: got {"a": 1}, expected text'),
        ("method.beta=1", "--set: method.beta: got an unknown key, expected one of adam_betas"),
    ],
)
def test_wrong_set(write, assignment, expected):
    (problem,) = problems(write("ppo.yaml", PPO), sets=[assignment])
    assert problem.startswith(expected)


def test_set_reads_values_as_yaml(write):
    recipe = one(
        write("ppo.yaml", PPO),
        sets=["method.learning_rate=1e-6", "policy.model=a=b", "method.kl_target=null", "data.prompt_tokens=[1, 2]"],
    )
    assert (recipe.method.learning_rate, recipe.method.kl_target) == (1e-6, None)
    assert recipe.policy.model == "a=b"
    assert recipe.data.prompt_tokens == (1, 2)
