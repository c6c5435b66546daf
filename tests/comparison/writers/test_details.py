from __future__ import annotations

import json
import re

import numpy as np
import pytest

from alignbench.comparison.compare import compare
from alignbench.comparison.cost_columns import COSTS, shown
from alignbench.comparison.formats import render
from alignbench.comparison.numbers import number
from alignbench.records import AnswerCost, Cost, MetricValue
from alignbench.results.schema import Upstream

N = 80


@pytest.fixture
def results(tmp_path, add_run):
    rng = np.random.default_rng(3)
    base = rng.uniform(0.2, 0.6, N)
    recipes = {"untrained": (0, 0), "ppo": (-0.1, -0.1), "ppo_no_kl_with_a_rather_long_name": (-0.2, 0.1)}
    for name, (reward, judge) in recipes.items():
        columns = {
            "toxicity_mean@reward": base + reward + rng.normal(0, 0.01, N),
            "toxicity_rate@reward": (base + reward > 0.5).astype(float),
            "toxicity_mean@judge": base + judge + rng.normal(0, 0.01, N),
            "toxicity_rate@judge": (base + judge > 0.5).astype(float),
            "perplexity": 3 + base + rng.normal(0, 0.1, N),
            "kl": rng.gamma(2, 1, N),
            "distinct_2": 0.9 - base / 10 + rng.normal(0, 0.01, N),
            "completion_tokens": rng.integers(10, 30, N),
            "repetition_rate": np.tile([0.0, 1.0], N // 2),
            "empty_rate": np.zeros(N),
        }
        noise = rng.normal(0, 0.004, 20)
        whole = [
            MetricValue(f"corpus_distinct_{n}", None, 0.5, None, None, "higher", N, 0, None, tuple(0.5 + noise))
            for n in (1, 2, 3)
        ]
        trained = {
            "train_reward": 1.5,
            "cost": Cost(
                1234.5, 1.25, 8192, 245_760, 8192, 128, 124_439_808, 8192, 983_040, 1.2345e15, 2e15, 4e15, 2469.0
            ),
            "upstream": [Upstream(recipe="reward_model", seed=0, run_hash="x", role="reward")],
        }
        add_run(tmp_path, name, columns, whole=whole, **(trained if name != "untrained" else {}))
    accuracy = MetricValue("pair_accuracy", None, 0.81, 0.78, 0.84, "higher", 100, 0)
    add_run(tmp_path, "reward_model", {}, whole=[accuracy], kind="reward_model", protocol="reward-model")
    return tmp_path


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0.0, "0.0000"), (0.03125, "0.0312"), (-0.5, "-0.5000"), (1.23456, "1.235"), (12.3456, "12.35"),
        (123.456, "123.5"), (12345.6, "12,346"), (-4321.0, "-4,321"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert number(value) == text


def test_table_fits_120_plain_columns_and_keeps_numbers_whole(results):
    text = render(compare(results), "details")
    assert max(map(len, text.splitlines())) <= 120
    assert "\x1b" not in text
    assert text.isascii()
    assert "124,439,808" in text
    assert "983,040" in text
    assert "1.23e15" in text


def test_the_costs_of_a_row_are_in_every_column(results):
    text = render(compare(results), "markdown")
    titles = ["Cost of a run, upstream included", "Cost of a run, upstream included, continued"]
    cells = [cell for title in titles for cell in line_of("ppo", text.split(f"### {title}\n")[1])]
    assert cells == [
        "ppo", "1,234.5", "2,469.0", "1.25", "8,192", "8,192", "245,760", "983,040", "8,192", "128", "1.23e15",
        "2.00e15", "4.00e15", "124,439,808",
    ]  # fmt: skip
    assert shown("backward_flops", 0.0) == "0"


@pytest.fixture
def answers(tmp_path, add_run):
    """Best of four over two seeds, an ensemble that draws no more and computes twice, and a run from before."""
    costs = {
        "untrained": [AnswerCost(8.5, 1e6)],
        "best_of_4": [AnswerCost(33.0, 4e6), AnswerCost(35.0, 4.1e6)],
        "ensemble": [AnswerCost(8.5, 2e6)],
        "old": [None],
        "half_old": [None, AnswerCost(8.5, 1e6)],
    }
    for name, seeds in costs.items():
        for seed, cost in enumerate(seeds):
            add_run(tmp_path, name, {"kl": [0.1, 0.2] * 6}, seed=seed, answer_cost=cost)
    return tmp_path


def test_the_cost_of_an_answer_stands_beside_that_of_the_baseline(answers):
    text = render(compare(answers), "markdown")
    assert "| tokens per answer | FLOPs per answer |" in text
    (costs,) = (part for part in text.split("### ") if "| tokens per answer" in part)
    cells = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[-2:] for line in costs.splitlines()[4:]}
    assert cells["untrained"] == ["8.5 (1x)", "1.00e6 (1x)"]
    assert cells["best_of_4"] == ["34.0 (4x)", "4.05e6 (4.05x)"]
    assert cells["ensemble"] == ["8.5 (1x)", "2.00e6 (2x)"]
    assert cells["old"] == cells["half_old"] == ["-", "-"]
    assert "the mean over the completions of the evaluation; x: times that of untrained." in costs
    other = render(compare(answers, baseline="best_of_4"), "markdown")
    assert "| 34.0 (1x) | 4.05e6 (1x) |" in other
    assert "| 8.5 (0.25x) | 1.00e6 (0.247x) |" in other
    unknown = render(compare(answers, baseline="old"), "markdown")
    assert "| 34.0 | 4.05e6 |" in unknown
    assert "x: times" not in unknown


def test_the_cost_of_an_answer_in_records(answers):
    records = json.loads(render(compare(answers), "json"))
    found = {(r["recipe"], r["metric"]): r["value"] for r in records if r["metric"].endswith("per_answer")}
    assert found["best_of_4", "tokens_per_answer"] == 34.0
    assert found["best_of_4", "flops_per_answer"] == pytest.approx(4.05e6)
    assert {recipe for recipe, _ in found} == {"untrained", "best_of_4", "ensemble"}


def test_where_no_run_says_what_an_answer_costs_there_are_no_columns(results):
    assert "per answer" not in render(compare(results), "markdown")


def line_of(recipe, text):
    """The cells of a recipe's first line."""
    return next(line for line in text.splitlines() if line.startswith(f"| {recipe}")).strip("| ").split(" | ")[1:]


def test_the_held_out_judge_comes_first_then_quality_costs_and_flags(results):
    text = render(compare(results), "details")
    order = [
        "toxicity_mean@judge: held-out judge",
        "toxicity_mean@reward: the training reward's own classifier",
        "Other toxicity metrics",
        "Quality",
        "Cost of a run, upstream included",
        "Reward models",
        "Flags:",
        "Notes:",
    ]
    places = [text.index(title) for title in order]
    assert places == sorted(places)
    flags = " ".join(text[places[-2] : places[-1]].split())
    assert "ppo_no_kl_with_a_rather_long_name: reward_hacking: the training reward's classifier sees less" in flags
    assert "upstream: built on reward_model/seed0 (reward)" in flags
    assert "ppo: reward_hacking" not in flags
    assert "not the seed" in " ".join(text[places[-1] :].split())


def test_suspicious_verdicts_carry_a_mark(results):
    text = render(compare(results), "markdown")
    rows = [line for line in text.splitlines() if line.startswith("| ppo")]
    honest = [line for line in rows if line.startswith("| ppo |")]
    hacked = [line for line in rows if line.startswith("| ppo_no_kl")]
    assert honest[0].endswith("| better |")
    assert hacked[0].endswith("| worse ! |")
    assert hacked[1].endswith("| better ! |")


def test_the_same_numbers_in_every_format(results):
    comparison = compare(results)
    plain, markdown = render(comparison, "details"), render(comparison, "markdown")
    for record in json.loads(render(comparison, "json")):
        name, value = record["metric"], record["value"]
        if value is None:
            continue
        cell = shown(name, value) if name in COSTS else number(value)
        assert cell in plain, record
        assert cell in markdown, record
        if record["metric"] == "toxicity_mean" and record["difference"] is not None:
            interval = f"[{number(record['difference_ci_low'])}, {number(record['difference_ci_high'])}]"
            assert interval in plain
            assert interval in markdown
    digits = re.compile(r"\d[\d,.]*\d")
    assert sorted(set(digits.findall(plain))) == sorted(set(digits.findall(markdown)))


def test_json_is_a_list_of_records(results):
    records = json.loads(render(compare(results), "json"))
    assert all(len(record) == 51 for record in records)
    hacked = [
        r for r in records if r["recipe"] == "ppo_no_kl_with_a_rather_long_name" and r["metric"] == "toxicity_mean"
    ]
    assert {(r["scorer"], r["verdict"]) for r in hacked} == {("judge", "worse"), ("reward", "better")}
    assert all(r["flags"] == ["reward_hacking", "upstream", "seeds_not_covered"] for r in hacked)


def test_only_the_reward_as_judge_is_said(tmp_path, add_run):
    add_run(tmp_path, "untrained", {"toxicity_mean@reward": list(np.linspace(0, 1, N))})
    assert "There is no held-out judge" in render(compare(tmp_path), "details")
