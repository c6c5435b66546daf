"""From stored runs to estimates and tests: corpus metrics, seeds that tie, groups of prompts, many recipes."""

import math

import numpy as np
import pytest

from alignbench.comparison.compare import compare
from alignbench.comparison.flags import judgement
from alignbench.comparison.formats import render
from alignbench.records import MetricKey, MetricValue
from alignbench.statistics.prompt_means import mean_interval

N = 60


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def one(comparison, recipe, metric):
    [found] = [r for r in comparison.records() if (r["recipe"], r["metric"]) == (recipe, metric)]
    return found


def neutral(log_value, wobble, sizes=(5,) * 20):
    replicates = tuple(log_value + wobble)
    value = math.exp(log_value)
    return MetricValue("neutral_perplexity", None, value, None, None, "lower", 100, 0, None, replicates, sizes)


def test_neutral_perplexity_is_pooled_and_tested_as_mean_log_perplexity(tmp_path, add_run, rng):
    wobble = rng.normal(0, 0.002, 20)
    columns = {"kl": rng.normal(size=N)}
    add_run(tmp_path, "untrained", columns, whole=[neutral(3.0, wobble)])
    add_run(tmp_path, "ppo", columns, whole=[neutral(3.1, wobble + rng.normal(0, 0.0002, 20))])
    add_run(tmp_path, "ppo", columns, seed=1, whole=[neutral(3.3, wobble + rng.normal(0, 0.0002, 20))])
    comparison = compare(tmp_path)
    base, ppo = (one(comparison, recipe, "neutral_perplexity") for recipe in ("untrained", "ppo"))
    error = math.sqrt(19 / 20 * ((wobble - wobble.mean()) ** 2).sum())  # textbook jackknife of equal groups
    assert base["value"] == pytest.approx(math.exp(3.0))
    assert base["ci_high"] == pytest.approx(math.exp(3.0 + 2.093 * error), rel=1e-4)
    assert ppo["value"] == pytest.approx(math.exp(3.2))
    assert ppo["ci_low"] < ppo["value"] < ppo["ci_high"]
    runs = comparison.recipes[1].metrics[MetricKey("neutral_perplexity")].tested.these_runs
    assert runs.value == pytest.approx(0.2)
    assert "Perplexities are tested as mean log-perplexity" in render(comparison, "details")


def test_sizes_of_groups_are_those_that_the_metric_was_measured_on(tmp_path, add_run):
    """Replicates that depend on nothing but how many texts a group has; the prompts' groups are others."""
    sizes = tuple(1 + 3 * (group % 4) for group in range(20))
    logs = np.array([(sum(sizes) - size) ** -0.5 for size in sizes])
    log_value = sum(sizes) ** -0.5
    add_run(
        tmp_path, "untrained", {"kl": list(np.linspace(0, 1, N))}, whole=[neutral(log_value, logs - log_value, sizes)]
    )
    own = one(compare(tmp_path), "untrained", "neutral_perplexity")
    width = math.log(own["ci_high"] / own["ci_low"])
    assert width < 0.02 * log_value
    # The same without the sizes: groups of prompts are taken for those of texts.
    without = neutral(log_value, logs - log_value, None)
    add_run(tmp_path / "other", "untrained", {"kl": list(np.linspace(0, 1, N))}, whole=[without])
    taken = one(compare(tmp_path / "other"), "untrained", "neutral_perplexity")
    assert math.log(taken["ci_high"] / taken["ci_low"]) > 3 * width


def test_two_seeds_whose_means_tie_are_no_surer_than_these_runs(tmp_path, add_run):
    # Rates of rare events, 0 or 1: both recipes have seeds with the same means, on other prompts.
    def rate(*prompts):
        column = np.zeros(100)
        column[list(prompts)] = 1.0
        return {"toxicity_mean@judge": column}

    add_run(tmp_path, "untrained", rate(50))
    for seed in (0, 1):
        add_run(tmp_path, "ppo", rate(*range(seed, seed + 6)), seed=seed)
        add_run(tmp_path, "dpo", rate(20 + seed, 21 + seed), seed=seed)
    comparison = compare(tmp_path, baseline="dpo")
    (row,) = (one for one in comparison.recipes if one.recipe == "ppo")
    tested = row.metrics[MetricKey("toxicity_mean", "judge")].tested
    assert tested.estimand == "the method"
    assert tested.parts.seeds == 0.0
    assert tested.method.p_value == tested.these_runs.p_value > 0.05
    assert judgement(row.metrics[MetricKey("toxicity_mean", "judge")]) == "not distinguishable"
    assert "same value" not in (tested.method.reason or "")
    records = [one for one in comparison.records() if (one["recipe"], one["metric"]) == ("ppo", "toxicity_mean")]
    assert records[0]["detectable_difference"] > 0.03


def test_prompts_that_are_variants_of_one_text_are_one_witness(tmp_path, add_run, rng):
    # 25 texts, four variants each, that answer alike: a hundred prompts, twenty-five witnesses.
    texts = np.repeat(rng.uniform(0, 1, 25), 4)
    groups = {f"p{i}": f"text {i // 4}" for i in range(100)}
    for name in ("grouped", "plain"):
        own = {} if name == "plain" else {"prompt_groups": groups}
        add_run(tmp_path / name, "untrained", {"toxicity_mean@judge": np.full(100, 0.35)}, **own)
        add_run(tmp_path / name, "ppo", {"toxicity_mean@judge": texts}, **own)
    grouped, plain = (
        compare(tmp_path / name).recipes[1].metrics[MetricKey("toxicity_mean", "judge")]
        for name in ("grouped", "plain")
    )
    by_hand = mean_interval(texts[::4] - 0.35)
    assert grouped.value.value == plain.value.value
    assert (grouped.difference.ci_low, grouped.difference.ci_high) == pytest.approx((by_hand.ci_low, by_hand.ci_high))
    assert grouped.difference.p_value > 2 * plain.difference.p_value
    notes = compare(tmp_path / "grouped").notes
    assert any("100 prompts are variants of 25 texts" in note for note in notes)
    assert not any("variants" in note for note in compare(tmp_path / "plain").notes)


def test_an_unequal_number_of_seeds_is_said(tmp_path, add_run, rng):
    add_run(tmp_path, "untrained", {"toxicity_mean@judge": rng.uniform(0, 1, 30)})
    for recipe, n_seeds in (("ppo", 4), ("dpo", 2)):
        for seed in range(n_seeds):
            add_run(tmp_path, recipe, {"toxicity_mean@judge": rng.uniform(0, 1, 30)}, seed=seed)
    assert any("Numbers of seeds differ (dpo 2, ppo 4)" in note for note in compare(tmp_path).notes)


def test_more_than_twenty_two_recipes_can_still_be_told_apart(tmp_path, add_run, rng):
    # By resampling no p was below 2 / 10,000, which Holm's adjustment of 253 pairs made 0.0506.
    for i in range(23):
        add_run(tmp_path, f"ppo_{i:02d}", {"toxicity_mean@judge": i / 25 + rng.normal(0, 0.01, 60)})
    pairs = compare(tmp_path, baseline="ppo_00", all_pairs=True).pairs
    assert len(pairs) == 253
    assert all(judgement(pair.measurement) == "worse" for pair in pairs)


def test_what_could_be_detected_is_no_larger_than_the_range(tmp_path, add_run):
    for seed in (0, 1):
        add_run(tmp_path, "ppo", {"toxicity_mean@judge": np.full(30, 0.9 * seed) + np.arange(30) / 1000}, seed=seed)
    add_run(tmp_path, "untrained", {"toxicity_mean@judge": np.full(30, 0.4) + np.arange(30)[::-1] / 1000})
    records = [one for one in compare(tmp_path).records() if one["recipe"] == "ppo" and one["scorer"] == "judge"]
    assert records[0]["detectable_difference"] == 1.0
