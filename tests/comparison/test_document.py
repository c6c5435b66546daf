"""What tables say beside their numbers: marks, estimands, remarks, seeds and names."""

from __future__ import annotations

import numpy as np
import pytest

from alignbench.comparison.compare import compare
from alignbench.comparison.document import document
from alignbench.comparison.formats import render
from alignbench.records import MetricKey, MetricValue

N = 60


@pytest.fixture
def base():
    return np.random.default_rng(7).uniform(0.2, 0.6, N)


def section(comparison, start):
    return next(one for one in document(comparison).sections if one.title.startswith(start))


@pytest.fixture
def mixed(tmp_path, add_run, base):
    """PPO over three seeds, honest; one run of DPO that pleases its reward, and has become shorter."""
    rng = np.random.default_rng(8)
    shared = np.linspace(0.5, 0.6, N)
    for recipe, seed, change, length in (
        ("untrained", 0, 0.0, 20), ("ppo", 4, -0.1, 20), ("ppo", 5, -0.11, 20), ("ppo", 6, -0.09, 20),
        ("dpo", 0, 0.1, 9),
    ):  # fmt: skip
        columns = {
            "toxicity_mean@judge": base + change + rng.normal(0, 0.01, N),
            "toxicity_mean@reward": base - abs(change) + rng.normal(0, 0.01, N),
            "completion_tokens": length + rng.normal(0, 1, N),
            "distinct_2": shared,
        }
        add_run(tmp_path, recipe, columns, seed=seed)
    return compare(tmp_path, all_pairs=True)


def test_verdicts_about_these_runs_are_told_apart_where_others_are_about_the_method(mixed):
    rows = {row[0]: row for row in section(mixed, "toxicity_mean@judge: held-out").rows}
    assert rows["ppo"][-1] == "better"
    assert rows["dpo"][-1] == "worse (these runs) !"
    assert rows["untrained"][-1] == "baseline"
    assert rows["ppo"][1] == "4-6"


def test_alike_estimands_are_not_repeated(tmp_path, add_run, base):
    for recipe in ("untrained", "ppo", "dpo"):
        add_run(tmp_path, recipe, {"toxicity_mean@judge": base + 0.1 * (recipe == "ppo")})
    comparison = compare(tmp_path, all_pairs=True)
    assert "(these runs)" not in render(comparison, "details")
    assert section(comparison, "toxicity_mean@judge: every pair").header[-1] == "verdict"


def test_pairs_are_marked_where_either_recipe_is_and_say_what_they_are_about(mixed):
    table = section(mixed, "toxicity_mean@judge: every pair")
    assert table.header[-2:] == ["verdict", "about"]
    found = {frozenset(row[:2]): row[-2:] for row in table.rows}
    assert found[frozenset({"untrained", "ppo"})] == ["better", "the method"]
    assert found[frozenset({"untrained", "dpo"})] == ["worse !", "these runs"]
    assert found[frozenset({"ppo", "dpo"})][0].endswith(" !")
    assert table.remarks == ["! Read the flags below before believing this verdict."]


def test_a_shift_of_length_is_recalled_below_the_quality_tables(mixed):
    said = "distinct-n, corpus-distinct-n and self-BLEU depend on the length of the texts, which has changed in dpo."
    assert render(mixed, "markdown").count(said) == 1
    assert said in section(mixed, "Quality").remarks


def test_detectable_says_at_which_level(mixed, tmp_path, add_run, base):
    legend = "the true difference that 80 % of repetitions would show, "
    many = section(mixed, "toxicity_mean@judge: what stands behind").remarks[0]
    assert f"{legend}if it were the only one among the 2 comparisons, at the level 0.05 / 2." in many
    for recipe in ("untrained", "ppo"):
        noise = np.random.default_rng(len(recipe)).normal(0, 0.1, N)
        add_run(tmp_path / "two", recipe, {"toxicity_mean@judge": base + noise})
    single = section(compare(tmp_path / "two"), "toxicity_mean@judge: what stands behind").remarks[0]
    assert f"{legend}at the level 0.05." in single


def test_runs_of_seeds_are_ranges(tmp_path, add_run, base):
    for seed in (0, 1, 3, 4, 5, 6, 9, 100, 101, 102):
        add_run(tmp_path, "untrained", {"toxicity_mean@judge": base}, seed=seed)
    (row,) = section(compare(tmp_path), "toxicity_mean@judge").rows
    assert row[1] == "0,1,3-6,9,100-102"


def test_one_prompt_is_one_prompt(tmp_path, add_run):
    add_run(tmp_path, "untrained", {"toxicity_mean@judge": [0.5]})
    assert document(compare(tmp_path)).headline.startswith(
        "Protocol trl-detox-v1: 1 held-out prompt, 1 completion each"
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [("ppo_no_kl", "ppo_no_kl"), ("a._b_", r"a.\_b\_"), ("k2", "k2"), ("a_-_b", r"a\_-\_b")],
)
def test_names_of_recipes_in_markdown(tmp_path, add_run, base, name, shown):
    add_run(tmp_path, "untrained", {"toxicity_mean@judge": base})
    add_run(tmp_path, name, {"toxicity_mean@judge": base - 0.01})
    assert f"\n| {shown} | 0 | " in render(compare(tmp_path), "markdown")


@pytest.mark.parametrize("lexicon", ["words.txt", None])
def test_a_word_list_is_known_by_the_recipe(tmp_path, add_run, base, lexicon):
    recipe = f"name: ppo\nevaluation:\n  scorers:\n  - reward\n  - name: words\n    lexicon: {lexicon or 'null'}\n"
    for name, change in (("untrained", 0.0), ("ppo", -0.1)):
        columns = {
            "toxicity_mean@judge": base,
            "toxicity_mean@words": base + change,
            "toxicity_mean@reward": base + change,
        }
        add_run(tmp_path, name, columns, resolved_recipe=recipe)
    flags = [flag.name for flag in compare(tmp_path).recipes[1].flags]
    assert ("reward_hacking" in flags) == (lexicon is not None)


@pytest.mark.parametrize("other", ["prompts", "neutral texts", None])
def test_metrics_of_other_texts_are_not_tested(tmp_path, add_run, base, comparability, other):
    rng = np.random.default_rng(1)
    for name, value in (("untrained", 0.6), ("ppo", 0.5)):
        whole = [
            MetricValue(metric, None, value, None, None, "none", N, 0, None, tuple(value + rng.normal(0, 0.001, 20)))
            for metric in ("corpus_distinct_2", "neutral_perplexity")
        ]
        fewer = N - 20 if other == "prompts" and name == "ppo" else N
        texts = {"neutral_texts": "t2" if other == "neutral texts" and name == "ppo" else "t1"}
        add_run(tmp_path, name, {"kl": base[:fewer]}, whole=whole, comparability=comparability | texts)
    comparison = compare(tmp_path, allow_mismatch=True)
    metrics = comparison.recipes[1].metrics
    for metric, texts in (("corpus_distinct_2", "prompts"), ("neutral_perplexity", "neutral texts")):
        difference = metrics[MetricKey(metric)].difference
        if other == texts:
            assert (difference.value, metrics[MetricKey(metric)].tested) == (None, None)
            assert difference.reason == f"the two sides were not measured on the same {texts}"
        else:
            assert difference.value is not None
