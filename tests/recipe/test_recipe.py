from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from alignbench.errors import RecipeError, UsageError
from alignbench.methods.base import Facts
from alignbench.recipe.loading import LoadedRecipe, load
from alignbench.recipe.recipe import Recipe

SHARED = """\
policy: {model: some/model}
reward: {classifier: some/classifier, label: nothate}
data: {prompts: real_toxicity_prompts, prompt_tokens: [10, 15]}
evaluation: {protocol: rtp-v1, scorers: [reward, {classifier: some/judge, label: toxic}]}
"""
PPO = f"name: my_ppo\nmethod: {{name: ppo, batch_size: 8, mini_batch_size: 4}}\n{SHARED}"
DPO = f"name: my_dpo\nmethod: {{name: dpo}}\n{SHARED}"
REWARD_MODEL = f"name: my_rm\nmethod: {{name: reward_model}}\n{SHARED}"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file into the current folder and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write_file(name: str, text: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return write_file


def loaded_one(*arguments: str, **options: object) -> LoadedRecipe:
    (loaded,) = load(arguments, **options)
    return loaded


def one(*arguments: str, **options: object) -> Recipe:
    return loaded_one(*arguments, **options).recipe


def problems(*arguments: str, **options: object) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(arguments, **options)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ("quantization: 4bit", "without an adapter: quantized weights cannot be trained; or set policy.lora"),
        ("quantization: 8bit, lora: {}, run: sft", "beside policy.run"),
        ("quantization: 2bit, lora: {}", "'none', '8bit' or '4bit'"),
    ],
)
def test_quantization_that_cannot_be(write, policy, problem):
    text = PPO.replace("policy: {model: some/model}", f"policy: {{model: some/model, {policy}}}")
    (found,) = problems(write("ppo.yaml", text))
    assert problem in found


def test_quantization_is_part_of_the_identity(write):
    lora = PPO.replace("some/model}", "some/model, lora: {}}")
    small = PPO.replace("some/model}", "some/model, lora: {}, quantization: 4bit}")
    assert one(write("a.yaml", lora)).run_hash({}) != one(write("b.yaml", small)).run_hash({})


# Reading


def test_recipe_becomes_typed_settings(write):
    recipe = one(write("ppo.yaml", PPO))
    assert (recipe.name, recipe.method_name, recipe.seed) == ("my_ppo", "ppo", 0)
    assert (recipe.method.batch_size, recipe.method.mini_batch_size) == (8, 4)
    assert recipe.method.clip_range == 0.2
    assert recipe.data.prompt_tokens == (10, 15)
    assert recipe.budget.completions == 8192
    assert recipe.evaluation.scorers[0] == "reward"
    assert recipe.evaluation.scorers[1].name == "judge"
    assert recipe.policy.lora is None


def test_a_local_recipe_needs_no_suffix_and_a_byte_order_mark_does_no_harm(write):
    write("mine.yaml", b"\xef\xbb\xbf" + PPO.encode())
    assert one("mine").name == "my_ppo"


def test_yaml_1_2_scalars(write):
    text = PPO.replace("batch_size: 8", "batch_size: 8, learning_rate: 1e-6") + "description: no\n"
    recipe = one(write("ppo.yaml", text + "chat: {system: 2026-01-31}\n"))
    assert recipe.method.learning_rate == 1e-6
    assert recipe.description == "no"
    assert recipe.chat.system == "2026-01-31"


def test_evaluation_prompts_are_a_name_or_settings(write):
    text = PPO.replace("protocol: rtp-v1", "protocol: rtp-v1, prompts: wiki_toxic")
    assert one(write("a.yaml", text)).evaluation.prompts == "wiki_toxic"
    text = PPO.replace("protocol: rtp-v1", "protocol: rtp-v1, prompts: {prompts: x.jsonl, max_prompts: 7}")
    assert one(write("b.yaml", text)).evaluation.prompts.max_prompts == 7


# Files that are no recipe: the problem comes alone


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "ppo.yaml: got an empty file"),
        ("# nothing but a comment\n", "ppo.yaml: got an empty file"),
        ("- a\n- b\n", "ppo.yaml: got a list"),
        ("just words\n", "ppo.yaml: got a single value"),
        (b"\x80\x02}q\x00X", "ppo.yaml: got a binary file, expected a YAML recipe in UTF-8"),
        (b"PK\x03\x04\x00\x00", "ppo.yaml: got a binary file"),
        (b"a: " + b"x" * 300_000, "ppo.yaml: got a file of 300,003 bytes"),
        ("name: a\nseed: 1\nname: b\n", 'ppo.yaml, line 3, column 1: got a syntax error (found duplicate key "name"'),
        ("name: a\nseed: [1\n", "ppo.yaml, line 3, column 1: got a syntax error (expected ',' or ']'"),
        ("name: a\n\tseed: 1\n", "ppo.yaml, line 2, column 1: got a syntax error"),
        (
            "name: !!python/object/apply:os.system [ls]\n",
            "ppo.yaml, line 1, column 7: got the tag tag:yaml.org,2002:py",
        ),
        ("name: !mine x\n", "ppo.yaml, line 1, column 7: got the tag !mine"),
        ("seed: !!int '3'\n", "ppo.yaml, line 1, column 7: got the tag"),
        ("a: &a [x, x]\nb: [*a, *a]\n", "ppo.yaml, line 1, column 4: got an anchor or alias"),
        ("a: {<<: {b: 1}}\n", "ppo.yaml, line 1, column 5: got << as a key"),
        ("1: a\n", "ppo.yaml, line 1, column 1: got 1 as a key"),
        ("? [a, b]\n: 1\n", "got a list or mapping as a key"),
        ("seed: 010\n", "ppo.yaml, line 1, column 7: got the number 010, expected no leading zero"),
        ("seed: " + "9" * 5000, "got a number that is too long"),
        ("a: " + "[" * 50 + "]" * 50, "got values nested more than 32 deep"),
        ("%YAML 1.1\n---\na: no\n", "ppo.yaml: got a line that begins with %"),
        ("a: 1\n---\nb: 2\n", "ppo.yaml, line 2, column 1: got a syntax error (but found another document)"),
        ('a: "\\ud800"\n', "got half a character"),
        ("a: '\x01'\n", "ppo.yaml: got a syntax error (unacceptable character"),
    ],
)
def test_file_that_is_no_recipe(write, content, message):
    (problem,) = problems(write("ppo.yaml", content))
    assert message in problem
    assert "\n" not in problem


def test_syntax_errors_come_before_schema_problems(write):
    (problem,) = problems(write("ppo.yaml", "nmae: x\nmethod: {name: pppo}\nseed: [\n"))
    assert "syntax error" in problem


def test_missing_file_and_folder(write, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=r"no file 'ppo_detx\.yaml'.*did you mean 'ppo_detox'"):
        load(["ppo_detx.yaml"])
    with pytest.raises(UsageError, match="'folder' is a directory"):
        load(["folder"])


def test_unreadable_file(write, monkeypatch):
    name = write("ppo.yaml", PPO)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UsageError, match=r"ppo\.yaml: cannot be read: Permission denied"):
        load([name])


# Wrong settings: all problems together


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "batch_size: 8",
            "kl_coeff: 1",
            "ppo.yaml: method.kl_coeff: got an unknown key, expected one of adam_betas,",
        ),
        ("batch_size: 8", "kl_coeff: 1", "did you mean 'kl_coef'?"),
        ("policy:", "polcy:", "ppo.yaml: polcy: got an unknown key, expected one of budget, builds_on, chat,"),
        ("policy:", "polcy:", "ppo.yaml: policy: got nothing, expected a value"),
        ("name: ppo", "name: pppo", 'ppo.yaml: method.name: got "pppo", expected one of dpo, ppo, '),
        ("name: ppo", "name: pppo", "did you mean 'ppo'?"),
        ("{name: ppo, ", "{", "ppo.yaml: method.name: got nothing, expected one of dpo"),
        ("name: ppo, ", "name: 3, ", "ppo.yaml: method.name: got 3, expected one of dpo"),
        ("batch_size: 8", "batch_size: 8.5", "ppo.yaml: method.batch_size: got 8.5, expected a whole number"),
        ("batch_size: 8", "batch_size: '8'", 'ppo.yaml: method.batch_size: got "8", expected a whole number'),
        ("batch_size: 8", "batch_size: true", "ppo.yaml: method.batch_size: got true, expected a whole number"),
        ("batch_size: 8", "gamma: .nan", "ppo.yaml: method.gamma: got NaN, expected a finite number"),
        ("batch_size: 8", "learning_rate: .inf", "ppo.yaml: method.learning_rate: got Infinity, expected a finite num"),
        ("batch_size: 8", "learning_rate: 1e999", "ppo.yaml: method.learning_rate: got Infinity, expected a finite n"),
        ("batch_size: 8", "learning_rate: -1e-5", "ppo.yaml: method.learning_rate: got -1e-05, expected more than 0"),
        ("batch_size: 8", "kl_coef: -0.1", "ppo.yaml: method.kl_coef: got -0.1, expected at least 0"),
        ("batch_size: 8", "batch_size: 10", "ppo.yaml: method: got values that do not fit together (mini_batch_size 4"),
        ("batch_size: 8", "whiten_rewards: no", 'ppo.yaml: method.whiten_rewards: got "no", expected true or false'),
        (
            "batch_size: 8",
            "completion_tokens: [9]",
            "ppo.yaml: method.completion_tokens: got [9], expected a longer list",
        ),
        ("name: my_ppo", "name: ../evil", 'ppo.yaml: name: got "../evil", expected a plain word'),
        ("name: my_ppo", "name: /tmp/x", 'ppo.yaml: name: got "/tmp/x", expected a plain word'),
        ("name: my_ppo", "name: .", 'ppo.yaml: name: got ".", expected a plain word'),
        ("name: my_ppo", "name: 17", "ppo.yaml: name: got 17, expected text (in quotes"),
        ("name: my_ppo\n", "", "ppo.yaml: name: got nothing, expected a value"),
        ("[10, 15]", "[15, 10]", "ppo.yaml: data.prompt_tokens: got [15, 10], expected [lowest, highest]"),
        ("[10, 15]", "15", "ppo.yaml: data.prompt_tokens: got 15, expected a list"),
        ("policy: {model: some/model}", "policy: some/model", 'ppo.yaml: policy: got "some/model", expected a mapping'),
        ("{model: some/model}", "{model: ''}", 'ppo.yaml: policy.model: got "", expected text that is not empty'),
        (
            "{model: some/model}",
            "{model: m, dtype: float23}",
            "expected 'float32' or 'bfloat16', did you mean 'float32'?",
        ),
        ("{model: some/model}", "{model: m, lora: {r: 0}}", "ppo.yaml: policy.lora.r: got 0, expected at least 1"),
        ("{model: some/model}", "{model: m, lora: {rank: 1}}", "expected one of alpha, r, target_modules"),
        (", label: nothate", "", "ppo.yaml: reward.label: got nothing, expected the classifier's name"),
        (
            "{classifier: some/classifier, label: nothate}",
            "{}",
            "ppo.yaml: reward.classifier: got nothing, expected a hub",
        ),
        (
            "{classifier: some/classifier, label: nothate}",
            "null",
            "ppo.yaml: reward: got nothing, expected a reward block",
        ),
        ("{classifier: some/classifier, label: nothate}", "null", "scorers: got `reward` without a reward classifier"),
        (
            "label: nothate}",
            "label: nothate, run: my_ppo}",
            'ppo.yaml: reward.run: got "my_ppo", expected another recipe',
        ),
        ("label: nothate}", "label: nothate, run: ../x}", 'ppo.yaml: reward.run: got "../x", expected a plain word'),
        ("rtp-v1", "rtp_v1", 'ppo.yaml: evaluation.protocol: got "rtp_v1", expected one of trl-detox-v1, rtp-v1, dex'),
        ("rtp-v1", "rtp_v1", "did you mean 'rtp-v1'?"),
        ("[reward, ", "[rewrd, ", "scorers.0: got \"rewrd\", expected 'reward' or a mapping, did you mean 'reward'?"),
        ("[reward, ", "[reward, reward, ", "expected scorers with different names, not reward, reward, judge"),
        (
            "{classifier: some/judge, label: toxic}",
            "{name: judge}",
            "evaluation.scorers.1.classifier: got nothing, expected a",
        ),
        ("{classifier: some/judge,", "{clasifier: some/judge,", "did you mean 'classifier'?"),
        ("[reward, {classifier: some/judge, label: toxic}]", "[]", "scorers: got [], expected at least 1 values"),
        ("protocol: rtp-v1", "protocol: rtp-v1, prompts: {promts: x}", "evaluation.prompts.promts: got an unknown key"),
    ],
)
def test_wrong_setting(write, old, new, expected):
    assert old in PPO
    found = problems(write("ppo.yaml", PPO.replace(old, new, 1)))
    assert any(expected in problem for problem in found), found
    # A mistake in one value is not reported once per type that it could have had.
    keys = [problem.partition(": got ")[0] for problem in found]
    assert len(set(keys)) == len(keys)


def test_several_problems_are_reported_together(write):
    text = PPO.replace("batch_size: 8", "kl_coeff: 1, learning_rate: -1").replace("[10, 15]", "[]")
    found = problems(write("ppo.yaml", text + "seed: -3\nhardware: {device: tpu}\nbudget: {completions: .nan}\n"))
    assert {problem.partition(": got")[0] for problem in found} == {
        "ppo.yaml: method.kl_coeff",
        "ppo.yaml: method.learning_rate",
        "ppo.yaml: data.prompt_tokens",
        "ppo.yaml: seed",
        "ppo.yaml: hardware.device",
        "ppo.yaml: budget.completions",
    }


def test_problems_of_an_unknown_method_do_not_hide_the_others(write):
    found = problems(write("ppo.yaml", PPO.replace("name: ppo", "name: pppo") + "seed: x\n"))
    assert [problem.partition(": got")[0] for problem in found] == ["ppo.yaml: method.name", "ppo.yaml: seed"]


def test_problems_of_several_recipes_are_reported_together(write):
    first = write("a.yaml", PPO + "seed: x\n")
    second = write("b.yaml", DPO.replace("name: dpo", "name: dpo, beta: 0"))
    assert [p.partition(": got")[0] for p in problems(first, second)] == ["a.yaml: seed", "b.yaml: method.beta"]


# Merging


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


# Several recipes, seeds, suites


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


# Dependencies

LEARNED = PPO.replace("label: nothate}", "label: nothate, run: my_rm}")


def test_upstream_is_found_beside_the_file_and_inherits_what_applies(write):
    write("my_rm.yaml", REWARD_MODEL.replace("method: {", "method: {epochs: 3, "))
    loaded = loaded_one(
        write("ppo.yaml", LEARNED), sets=["policy.model=other/model", "method.gamma=0.5"], seeds=[5], name="renamed"
    )
    assert list(loaded.upstream) == ["reward"]
    reward_model = loaded.upstream["reward"].recipe
    assert (reward_model.name, reward_model.method_name, reward_model.seed) == ("my_rm", "reward_model", 5)
    assert reward_model.method.epochs == 3
    assert reward_model.policy.model == "other/model"
    assert loaded.upstream["reward"].upstream == {}


def test_a_dependency_given_by_set_does_not_depend_on_itself(write):
    write("my_rm.yaml", REWARD_MODEL)
    upstream = loaded_one(write("ppo.yaml", PPO), sets=["reward.run=my_rm"]).upstream["reward"].recipe
    assert upstream.reward.run is None
    assert upstream.reward.classifier == "some/classifier"


def test_upstream_in_the_same_suite_wins_with_its_own_overrides(write):
    write("my_rm.yaml", REWARD_MODEL)
    write("ppo.yaml", LEARNED)
    write("s.yaml", "name: s\nrecipes: [ppo.yaml, {recipe: my_rm.yaml, overrides: {method: {epochs: 9}}}]\n")
    learned, reward_model = load(["s.yaml"])
    assert learned.upstream["reward"] == reward_model
    assert reward_model.recipe.method.epochs == 9


def test_policy_upstream(write):
    write("my_dpo.yaml", DPO)
    loaded = loaded_one(write("ppo.yaml", PPO.replace("some/model", "some/model, run: my_dpo")))
    assert {role: other.name for role, other in loaded.upstream.items()} == {"policy": "my_dpo"}


def test_resolved_recipe_of_a_run_depends_on_the_run_beside_it(write):
    write("my_rm.yaml", REWARD_MODEL)
    loaded = loaded_one(write("ppo.yaml", LEARNED), sets=["policy.model=here"])
    write("results/my_ppo/seed0/recipe.resolved.yaml", loaded.recipe.to_yaml())
    write("results/my_rm/seed0/recipe.resolved.yaml", loaded.upstream["reward"].recipe.to_yaml())
    again = loaded_one("results/my_ppo/seed0/recipe.resolved.yaml")
    assert again == loaded
    assert again.upstream == loaded.upstream


def test_wrong_dependencies(write):
    with pytest.raises(UsageError, match=r"ppo\.yaml: reward\.run: no file 'my_rm'"):
        load([write("ppo.yaml", LEARNED)])
    write("my_rm.yaml", DPO)
    (problem,) = problems("ppo.yaml")
    assert problem.startswith(
        "ppo.yaml: reward.run: got my_dpo, which gives a policy, expected a recipe that trains a rew"
    )
    write("my_rm.yaml", REWARD_MODEL + "seed: x\nhardware: {threads: 0}\n")
    assert [p.partition(": got")[0] for p in problems("ppo.yaml")] == ["my_rm.yaml: hardware.threads"]
    write("my_rm.yaml", REWARD_MODEL.replace("some/model}", "some/model, run: my_ppo}"))
    (problem,) = problems(write("my_ppo.yaml", LEARNED))
    assert problem.startswith("my_ppo.yaml: reward.run: got a circle: my_ppo > my_rm > my_ppo, expected")


# The resolved recipe and its hash


def test_round_trip(write):
    awkward = "a: b # c\n\ttab 'quoted' \"double\" é 日本 🙂 {{ jinja }} 010 \n  {%- for x in y %}\n"
    recipe = one(write("ppo.yaml", PPO), sets=["chat.system='010'", "policy.revision='2026-01-01'"])
    recipe = recipe.model_copy(update={"chat": recipe.chat.model_copy(update={"template": awkward})})
    again = one(write("resolved.yaml", recipe.to_yaml()))
    assert again == recipe
    assert again.chat.template == awkward
    assert again.run_hash({}) == recipe.run_hash({})
    assert again.to_yaml() == recipe.to_yaml()


def test_resolved_writes_every_default(write):
    resolved = one(write("ppo.yaml", PPO)).resolved()
    assert resolved["method"]["name"] == "ppo"
    assert resolved["method"]["gae_lambda"] == 0.95
    assert resolved["method"]["micro_batch_size"] is None
    assert resolved["policy"] == {
        "model": "some/model",
        "revision": None,
        "trust_remote_code": False,
        "dtype": "float32",
        "lora": None,
        "quantization": "none",
        "run": None,
    }
    assert resolved["hardware"] == {"device": "auto", "threads": None}
    # Blocks that are not given are no part of it.
    assert set(resolved) == set(Recipe.model_fields) - {"builds_on", "demonstrations", "labelled_completions"}


def test_hash_is_stable_under_writing(write):
    plain = one(write("a.yaml", PPO))
    lines = PPO.splitlines()
    assert one(write("b.yaml", "\n".join(reversed(lines)))).run_hash({}) == plain.run_hash({})
    written_out = PPO.replace("batch_size: 8", "batch_size: 8, gamma: 1, kl_horizon: 10000")
    assert one(write("c.yaml", written_out)).run_hash({}) == plain.run_hash({})
    renamed = one("a.yaml", sets=["name=other", "description=words", "hardware.threads=7"])
    assert renamed.run_hash({}) == plain.run_hash({})


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "method.gamma=0.9",
        "policy.model=other",
        "policy.lora={}",
        "reward.label=hate",
        "data.split_seed=1",
        "pairs.min_margin=0.1",
        "budget.completions=1",
        "evaluation.n_prompts=3",
        "evaluation.scorers=[reward]",
        "chat.system=hello",
        "policy.trust_remote_code=true",
    ],
)
def test_hash_sees_every_block(write, change):
    name = write("ppo.yaml", PPO)
    assert one(name).run_hash({}) != one(name, sets=[change]).run_hash({})


def test_hash_takes_upstream_by_its_hash_and_not_by_its_name(write):
    write("my_rm.yaml", REWARD_MODEL)
    write("other_rm.yaml", REWARD_MODEL)
    one_name, other_name = one(write("a.yaml", LEARNED)), one(write("b.yaml", LEARNED.replace("my_rm", "other_rm")))
    assert one_name.run_hash({"reward": "x"}) == other_name.run_hash({"reward": "x"})
    assert one_name.run_hash({"reward": "x"}) != one_name.run_hash({"reward": "y"})
    assert one_name.run_hash({"reward": "x"}) != one(write("c.yaml", PPO)).run_hash({})
    with pytest.raises(KeyError):
        one_name.run_hash({})


def test_numbers_survive_writing(write):
    recipe = one(write("ppo.yaml", PPO), sets=[f"method.learning_rate={math.pi / 1e9!r}", "method.gamma=1"])
    assert one(write("again.yaml", recipe.to_yaml())).method == recipe.method
    assert re.search(r"^  gamma: 1\.0$", recipe.to_yaml(), re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Careless:
    facts: ClassVar[Facts] = Facts(architectures=frozenset())
    strength: float = 1

    def train(self, data: object, run: object) -> object:
        """Trains."""


def test_a_default_hashes_like_the_same_value_given(write, monkeypatch):
    monkeypatch.setattr("alignbench.recipe.recipe.known_methods", lambda: ["careless"])
    monkeypatch.setattr("alignbench.recipe.recipe.method_class", lambda name: Careless)
    text = "name: a\nmethod: {name: careless%s}\n" + SHARED
    left_out, given = one(write("a.yaml", text % "")), one(write("b.yaml", text % ", strength: 1.0"))
    assert left_out.run_hash({}) == given.run_hash({})


def test_import_and_load_bring_no_heavy_library():
    code = (
        "import sys, alignbench.recipe.loading as r; r.load(['quickstart']); "
        "print([m for m in ('torch', 'transformers', 'pandas', 'scipy', 'datasets', 'trl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
