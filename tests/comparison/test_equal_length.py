"""Length-matched differences from run directories, and the resampling unit of expected maximum toxicity."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from alignbench.comparison.compare import compare
from alignbench.comparison.formats import render

N = 120


@pytest.fixture
def add_scored(tmp_path, add_run, comparability):
    """Writes a run from scores and lengths per completion, (prompts, k)."""

    def add(recipe, scores, lengths, seed=0, **changes):
        n, k = scores.shape
        completions = pd.DataFrame(
            {
                "prompt_id": np.repeat([f"p{i}" for i in range(n)], k), "prompt": "I", "sample": np.tile(range(k), n),
                "completion": "am", "n_tokens": lengths.ravel(), "finish_reason": "eos",
                "toxicity@judge": scores.ravel(),
            }
        )  # fmt: skip
        columns = {
            "toxicity_mean@judge": scores.mean(axis=1),
            "toxicity_rate@judge": (scores > 0.5).mean(axis=1),
            "expected_max_toxicity@judge": scores.max(axis=1),
            "completion_tokens": lengths.mean(axis=1),
        }
        same = comparability | {"toxicity_threshold": 0.5, "threshold_inclusive": False} | changes
        add_run(tmp_path, recipe, columns, seed=seed, completions=completions, comparability=same)

    return add


def one(comparison, recipe, metric):
    (record,) = [r for r in comparison.records() if (r["recipe"], r["metric"]) == (recipe, metric)]
    return record


def world(rng, length, shift=0.0, k=2):
    lengths = np.clip(np.round(rng.normal(length, 5, (N, k))), 1, 48).astype(int)
    return 0.02 * lengths + shift + rng.normal(0, 0.05, (N, k)), lengths


def test_a_gain_by_length_alone_vanishes_and_a_shift_stays(tmp_path, add_scored):
    rng = np.random.default_rng(1)
    for seed in (0, 1, 2):
        add_scored("untrained", *world(rng, 20), seed=seed)
        add_scored("shorter", *world(rng, 14), seed=seed)
        add_scored("shorter_and_better", *world(rng, 14, -0.1), seed=seed)
        add_scored("better", *world(rng, 20, -0.1), seed=seed)
    comparison = compare(tmp_path)
    for recipe, truth in (("shorter", 0.0), ("shorter_and_better", -0.1)):
        record = one(comparison, recipe, "toxicity_mean")
        assert record["verdict"] == "better"
        assert "length_shift" in record["flags"]
        assert record["difference"] < truth - 0.08
        assert record["length_matched_difference"] == pytest.approx(truth, abs=0.01)
        assert record["length_matched_ci_low"] <= truth <= record["length_matched_ci_high"]
        assert record["length_matched_share"] > 0.9
    rate = one(comparison, "shorter", "toxicity_rate")
    assert abs(rate["length_matched_difference"]) < 0.05 < abs(rate["difference"])
    assert one(comparison, "shorter", "expected_max_toxicity")["length_matched_difference"] is None
    assert one(comparison, "better", "toxicity_mean")["length_matched_difference"] is None
    text = " ".join(render(comparison, "details").split())
    assert "Toxicity at equal length" in text
    said = {row.recipe: flag.text for row in comparison.recipes for flag in row.flags if flag.name == "length_shift"}
    assert "toxicity_mean at equal length: judge: the gain is gone (" in said["shorter"]
    share = int(re.search(r"judge: (\d+)% of the gain is left", said["shorter_and_better"])[1])
    assert share == pytest.approx(100 * 0.1 / 0.22, abs=5)  # six tokens fewer at 0.02 each, and the shift
    assert "depend on the length of the texts" not in text  # there are no such metrics here


def test_a_row_counts_where_most_of_its_gain_is_shown_at_equal_length(tmp_path, add_scored):
    """By length alone a fall of 0.12: of `half` nearly half is left, of `most` three quarters."""
    rng = np.random.default_rng(1)
    for recipe, length, shift in (("untrained", 20, 0.0), ("shorter", 14, 0.0), ("half", 14, -0.1), ("most", 15, -0.3)):
        add_scored(recipe, *world(rng, length, shift))
    found = compare(tmp_path)
    flagged = {row.recipe for row in found.recipes if any(flag.name == "length_shift" for flag in row.flags)}
    assert flagged == {"shorter", "half", "most"}
    assert found.answer.best == "most"
    assert [one.recipe for one in found.answer.discounted] == ["half", "shorter"]


def test_without_a_threshold_there_is_no_matched_rate(tmp_path, add_run, comparability):
    rng = np.random.default_rng(1)
    for recipe, length in (("untrained", 20), ("ppo", 12)):
        scores, lengths = world(rng, length, k=1)
        completions = pd.DataFrame(
            {"prompt_id": [f"p{i}" for i in range(N)], "sample": 0, "n_tokens": lengths[:, 0],
             "toxicity@judge": scores[:, 0]}
        )  # fmt: skip
        columns = {"toxicity_mean@judge": scores[:, 0], "toxicity_rate@judge": (scores[:, 0] > 0.5).astype(float),
                   "completion_tokens": lengths[:, 0]}  # fmt: skip
        add_run(tmp_path, recipe, columns, completions=completions)
    comparison = compare(tmp_path)
    assert one(comparison, "ppo", "toxicity_mean")["length_matched_difference"] is not None
    assert one(comparison, "ppo", "toxicity_rate")["length_matched_difference"] is None


def test_nothing_is_read_where_no_length_has_moved(tmp_path, add_scored):
    rng = np.random.default_rng(1)
    add_scored("untrained", *world(rng, 20))
    add_scored("ppo", *world(rng, 20, -0.2))
    for path in tmp_path.rglob("completions.parquet"):
        path.unlink()
    record = one(compare(tmp_path), "ppo", "toxicity_mean")
    assert (record["verdict"], record["length_matched_reason"]) == ("better", None)


def test_expected_maximum_resamples_prompts_only(tmp_path, add_scored):
    """Maximum per prompt and seed over the k at hand, averaged over seeds, prompts resampled: an oracle of its own.

    Were completions resampled within their prompts too, maxima would come out smaller and the interval elsewhere.
    """
    rng = np.random.default_rng(3)
    k, prompts = 5, rng.beta(1, 3, (N, 1))
    scores = {name: [np.clip(prompts * f + rng.beta(1, 6, (N, k)), 0, 1) for _ in (0, 1)]
              for name, f in (("untrained", 1.0), ("ppo", 0.8))}  # fmt: skip
    for name, seeds in scores.items():
        for seed, one_seed in enumerate(seeds):
            add_scored(name, one_seed, np.full((N, k), 20), seed=seed)
    comparison = compare(tmp_path)
    record = one(comparison, "ppo", "expected_max_toxicity")
    by_prompt = {name: np.mean([s.max(axis=1) for s in seeds], axis=0) for name, seeds in scores.items()}
    change = by_prompt["ppo"] - by_prompt["untrained"]
    assert record["value"] == pytest.approx(by_prompt["ppo"].mean())
    assert record["difference"] == pytest.approx(change.mean())
    drawn = change[np.random.default_rng(99).integers(0, N, (20_000, N))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    width = high - low
    assert record["runs_ci_low"] == pytest.approx(low, abs=0.05 * width)
    assert record["runs_ci_high"] == pytest.approx(high, abs=0.05 * width)
    # The wrong way, for scale: with completions resampled too, values fall by more than the interval of the value.
    within = np.stack([s[np.arange(N)[:, None], rng.integers(0, k, (N, k))].max(axis=1) for s in scores["ppo"]])
    assert within.mean() < record["ci_low"] < record["value"] < record["ci_high"]


def test_maxima_over_another_k_are_not_compared(tmp_path, add_scored):
    from alignbench.errors import ComparabilityError

    rng = np.random.default_rng(3)
    add_scored("untrained", *world(rng, 20, k=5))
    add_scored("ppo", *world(rng, 20, k=4))
    with pytest.raises(ComparabilityError, match="samples_per_prompt: "):
        compare(tmp_path)


@pytest.mark.parametrize(("inclusive", "expected"), [(True, -1 / 6), (False, -1.0)])
def test_the_protocols_threshold_decides(tmp_path, add_scored, inclusive, expected):
    """By hand: at 20 tokens, three quarters of the baseline, 0 or -1; at 10 tokens -2 / 3 or -1."""
    before = np.full((N, 4), 0.9) + np.random.default_rng(0).uniform(0, 0.01, (N, 4))
    after = np.tile([0.5, 0.1, 0.5, 0.1], (N, 1)) - np.random.default_rng(1).uniform(0, 0.01, (N, 1)) * [0, 1, 0, 1]
    add_scored("untrained", before, np.tile([20, 20, 20, 10], (N, 1)), threshold_inclusive=inclusive)
    add_scored("ppo", after, np.tile([20, 10, 10, 10], (N, 1)), threshold_inclusive=inclusive)
    assert one(compare(tmp_path), "ppo", "toxicity_rate")["length_matched_difference"] == pytest.approx(expected)


def test_a_completion_without_a_length_is_said(tmp_path, add_scored):
    rng = np.random.default_rng(3)
    add_scored("untrained", *world(rng, 20))
    add_scored("shorter", *world(rng, 10))
    [path] = (tmp_path / "shorter").rglob("completions.parquet")
    frame = pd.read_parquet(path).astype({"n_tokens": "Int64"})
    frame.loc[3, "n_tokens"] = None
    frame.to_parquet(path, index=False)
    record = one(compare(tmp_path), "shorter", "toxicity_mean")
    assert record["length_matched_reason"] == (
        "completions.parquet cannot be read: n_tokens: a completion without a length"
    )
