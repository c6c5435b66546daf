from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from fixtures.recipe_texts import DPO, LEARNED, PPO, REWARD_MODEL, SHARED, one, problems

from alignbench.errors import UsageError
from alignbench.methods.base import Facts
from alignbench.recipe.loading import load
from alignbench.recipe.recipe import Recipe


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
        (
            "name: ppo",
            "name: pppo",
            'ppo.yaml: method.name: got "pppo", expected one of best_of_n, cpo, dexperts, dpo, ',
        ),
        ("name: ppo", "name: pppo", "did you mean 'ppo'?"),
        ("{name: ppo, ", "{", "ppo.yaml: method.name: got nothing, expected one of best_of_n, cpo"),
        ("name: ppo, ", "name: 3, ", "ppo.yaml: method.name: got 3, expected one of best_of_n, cpo"),
        ("batch_size: 8", "batch_size: 8.5", "ppo.yaml: method.batch_size: got 8.5, expected a whole number"),
        ("batch_size: 8", "batch_size: '8'", 'ppo.yaml: method.batch_size: got "8", expected a whole number'),
        ("batch_size: 8", "batch_size: true", "ppo.yaml: method.batch_size: got true, expected a whole number"),
        ("name: ppo, ", "name: quark, reward_scaling: std, ", "reward_scaling: got std, expected none: the pool"),
        ("name: ppo, ", "name: reinforce_pp, baseline: group, ", "ompt: got 1 with baseline group, expected 2 or more"),
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
        (
            "[reward, ",
            "[rewrd, ",
            "scorers.0: got \"rewrd\", expected 'reward', a mapping, or one of the presets s-nlp",
        ),
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


# Several recipes, seeds, suites


# Dependencies


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
    assert set(resolved) == set(Recipe.model_fields) - {
        *("builds_on", "demonstrations", "labelled_completions", "feedback", "revisions", "tracking"),
    }


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
