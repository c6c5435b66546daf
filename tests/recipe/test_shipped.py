from __future__ import annotations

import re
from pathlib import Path

import pytest

from alignbench.errors import UsageError
from alignbench.evaluation.protocols import PROTOCOLS
from alignbench.methods.registry import method_class
from alignbench.plugins import METHODS
from alignbench.recipe.layers import shipped_directory, shipped_names
from alignbench.recipe.loading import load

RECIPES = ["base", "dpo_classifier_pairs", "ppo_detox", "ppo_learned_reward", "ppo_no_kl", "reward_model"]
SUITES = ["suites/detox_gpt_neo_125m", "suites/quickstart"]
TUNED = "suites/quickstart_tuned"
MORE = [
    "best_of_n",
    "cpo",
    "dexperts",
    "gradient_ascent",
    "interpolated",
    "projected",
    "prompted",
    "steered",
    "task_vector",
    "sft_toxic",
    "word_filter",
    "kto",
    "orpo",
    "rrhf",
    "dpo_after_sft",
    "lab3_base",
    "lab3_ppo",
    "lab3_sft",
    "ppo_after_sft",
    "ppo_bloom_560m",
    "ppo_gpt2",
    "ppo_gpt2_large",
    "ppo_gpt_j_6b",
    "ppo_gpt_neo_2_7b",
    "ppo_llama_2_7b",
    "ppo_opt_350m",
    "ppo_qwen3_1_7b_chat",
    "reward_model_after_sft",
    "sft",
    "steerlm",
    "simpo",
    "suites/ablation_prompt_length",
    "suites/ablation_reward",
    "suites/all_methods",
    "suites/challenge_gpt2_medium",
    "suites/interpolation_embedded",
    "suites/lab3",
    "suites/rlhf_pipeline",
    "suites/rlhf_pipeline_embedded",
    "dr_grpo",
    "grpo",
    "online_dpo",
    "quark",
    "raft",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "rloo",
    "red_team",
    "rlaif",
    "constitutional",
    "constitutional_dpo",
    "rlaif_reward_model",
    "rlaif_ppo",
    "suites/feedback_embedded",
]
"""Recipes and suites beside those of the study of detoxification, which differ in their method alone."""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Shipped recipes are found by name from anywhere."""
    monkeypatch.chdir(tmp_path)


def test_the_list_is_complete():
    assert shipped_names() == sorted([*RECIPES, *SUITES, TUNED, *MORE])
    stems = [name.rpartition("/")[2] for name in shipped_names()]
    assert len(set(stems)) == len(stems), "a suite and a recipe of one name cannot be told apart"


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_loads_under_its_file_name(name):
    (loaded,) = load([name])
    recipe = loaded.recipe
    assert recipe.name == name
    assert recipe.description
    assert recipe.policy.model == "EleutherAI/gpt-neo-125m"
    assert (recipe.reward.classifier, recipe.reward.label) == (
        "facebook/roberta-hate-speech-dynabench-r4-target",
        "nothate",
    )
    assert recipe.evaluation.protocol == "trl-detox-v1"
    assert [s if isinstance(s, str) else (s.classifier, s.label) for s in recipe.evaluation.scorers] == [
        "reward",
        ("s-nlp/roberta_toxicity_classifier", "toxic"),
    ]


@pytest.mark.parametrize("name", SUITES)
def test_suite_holds_every_recipe(name):
    short = name.rpartition("/")[2]
    recipes = load([short])
    assert {recipe.name for recipe in recipes} == set(RECIPES)
    assert [one.recipe.resolved() for one in load([name])] == [one.recipe.resolved() for one in recipes]


def test_the_tuned_suite_gives_both_methods_as_many_trials():
    recipes = {recipe.name: recipe for recipe in load([TUNED])}
    assert {name: recipe.sweep and len(recipe.sweep.trials) for name, recipe in recipes.items()} == {
        "base": None, "dpo_tuned": 2, "ppo_tuned": 2,
    }  # fmt: skip
    # Run into one results directory, the two suites are not in each other's way.
    quickstart = {recipe.name: recipe for recipe in load(["quickstart"])}
    assert quickstart.keys() & recipes.keys() == {"base"}
    assert quickstart["base"] == recipes["base"]


def test_the_suite_of_all_methods_has_every_method():
    made_here = {name for name in METHODS.built_in if not method_class(name).facts.is_made_elsewhere}
    assert {loaded.recipe.method_name for loaded in load(["all_methods"])} == made_here


@pytest.mark.parametrize("name", [*RECIPES, *SUITES, TUNED, *MORE])
def test_round_trip(name, tmp_path):
    for loaded in load([name]):
        path = tmp_path / "again.yaml"
        path.write_text(loaded.recipe.to_yaml())
        assert [again.recipe for again in load([str(path)])] == [loaded.recipe]


def test_recipes_differ_in_their_method_alone():
    shared = []
    for loaded in load(RECIPES):
        values = loaded.recipe.resolved()
        del values["name"], values["description"], values["method"]
        values["reward"]["run"] = None
        shared.append(values)
    assert all(values == shared[0] for values in shared)


@pytest.mark.parametrize("suite", SUITES)
def test_ppo_recipes_differ_in_what_their_names_say(suite):
    by_name = {loaded.name: loaded.recipe for loaded in load([suite], seeds=[0])}
    detox, no_kl, learned = (by_name[name] for name in ("ppo_detox", "ppo_no_kl", "ppo_learned_reward"))
    assert learned.method == detox.method
    assert learned.reward.run == "reward_model"
    assert detox.reward.run is None
    changed = {
        key: value
        for key, value in no_kl.resolved()["method"].items()
        if value != detox.resolved()["method"][key] and key != "kl_horizon"
    }
    assert changed["kl_coef"] == 0.0
    assert set(changed) <= {"kl_coef", "kl_target"}
    assert no_kl.method.kl_target is None
    assert no_kl.reward == detox.reward


def test_detox_recipe_states_the_values_of_its_source():
    (loaded,) = load(["ppo_detox"])
    recipe, method = loaded.recipe, loaded.recipe.method
    assert method.learning_rate == pytest.approx(2 * 1.47e-5)
    assert (method.batch_size, method.mini_batch_size, method.completion_tokens) == (16, 4, (20, 30))
    assert (method.kl_coef, method.kl_target, method.kl_horizon) == (0.2, 6.0, 10_000)
    assert (recipe.data.min_prompt_toxicity, recipe.data.prompt_tokens) == (0.3, (10, 15))
    assert (recipe.reward.transform, recipe.reward.text) == ("logit", "completion")


def test_quickstart_stays_in_the_embedded_world():
    recipes = [loaded.recipe for loaded in load(["quickstart"])]
    assert {recipe.seed for recipe in recipes} == {0}
    for recipe in recipes:
        assert (recipe.policy.model, recipe.reward.classifier) == ("embedded/policy", "embedded/classifier")
        assert recipe.data.prompts == "embedded"
        assert recipe.data.min_prompt_toxicity is None
        assert recipe.evaluation.protocol == "quickstart-v1"
        assert [s if isinstance(s, str) else s.classifier for s in recipe.evaluation.scorers] == [
            "reward",
            "embedded/judge",
        ]
        longest = PROTOCOLS["quickstart-v1"].decoding.max_new_tokens
        assert recipe.pairs.completion_tokens == (longest, longest)
        assert getattr(recipe.method, "completion_tokens", (longest, longest)) == (longest, longest)


def test_learned_reward_comes_from_the_recipe_of_the_same_suite():
    for suite in SUITES:
        by_name = {(loaded.name, loaded.recipe.seed): loaded for loaded in load([suite])}
        for (name, seed), loaded in by_name.items():
            expected = {"reward": by_name["reward_model", seed]} if name == "ppo_learned_reward" else {}
            assert loaded.upstream == expected


def test_a_checkout_path_outside_a_checkout_suggests_the_shipped_name():
    with pytest.raises(UsageError, match="did you mean 'suites/quickstart'"):
        load(["recipes/suites/quickstart.yaml"])


def test_readme_lists_every_recipe_and_suite():
    readme = (shipped_directory() / "README.md").read_text()
    listed = set(re.findall(r"^\| `(\w+)`", readme, re.MULTILINE))
    assert listed == {Path(name).name for name in [*RECIPES, *SUITES, TUNED, *MORE]}
