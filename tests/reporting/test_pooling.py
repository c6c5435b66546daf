"""Metrics of the whole corpus whose replicates are logarithms, and whose groups are not of the evaluated prompts."""

import math

import numpy as np
import pytest

from alignbench.records import MetricValue
from alignbench.reporting.compare import compare
from alignbench.reporting.tables import render

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
    runs = comparison.recipes[1].metrics["neutral_perplexity", None].tested.these_runs
    assert runs.value == pytest.approx(0.2)
    assert "Perplexities are tested as mean log-perplexity" in render(comparison)


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
