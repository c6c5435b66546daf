"""Seeds, corpus metrics and families of tests: what a difference is about, and how sure it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fixtures.compared import N, corpus, one

from alignbench.comparison.compare import compare
from alignbench.comparison.formats import render
from alignbench.records import MetricValue
from alignbench.statistics.jackknife import jackknife_group


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_perplexity_is_compared_in_logarithms(tmp_path, add_run, rng):
    logs = rng.normal(3.0, 0.5, N)
    add_run(tmp_path, "untrained", {"perplexity": logs})
    add_run(tmp_path, "ppo", {"perplexity": logs + 0.2 + rng.normal(0, 0.01, N)})
    comparison = compare(tmp_path)
    base, ppo = one(comparison, "untrained", "perplexity"), one(comparison, "ppo", "perplexity")
    assert base["value"] == pytest.approx(math.exp(logs.mean()))
    assert base["ci_low"] < base["value"] < base["ci_high"]
    assert math.log(base["ci_high"]) - math.log(base["ci_low"]) == pytest.approx(4 * 0.5 / math.sqrt(N), rel=0.3)
    assert ppo["difference"] == pytest.approx(0.2, abs=0.005)
    assert ppo["verdict"] == "worse"


def test_corpus_metrics_are_paired_by_group(tmp_path, add_run, rng):
    noise = rng.normal(0, 0.05, 20)
    columns = {"kl": rng.normal(size=N)}
    add_run(tmp_path, "untrained", columns, whole=[corpus("corpus_distinct_2", 0.6, noise)])
    add_run(tmp_path, "ppo", columns, whole=[corpus("corpus_distinct_2", 0.5, 1.01 * noise)])
    record = one(compare(tmp_path), "ppo", "corpus_distinct_2")
    assert record["value"] == 0.5
    assert record["difference"] == pytest.approx(-0.1)
    assert record["difference_ci_high"] < 0
    assert record["ci_high"] - record["ci_low"] > 0.2
    assert record["verdict"] == "worse"


def test_corpus_metrics_allow_for_the_size_of_groups(tmp_path, add_run):
    sizes = [sum(jackknife_group(f"p{i}") == group for i in range(N)) for group in range(20)]
    replicates = tuple((N - size) ** -0.5 if size else None for size in sizes)  # depends on nothing but size
    whole = [MetricValue("corpus_distinct_1", None, N**-0.5, None, None, "higher", N, 0, None, replicates)]
    add_run(tmp_path, "untrained", {"kl": list(np.linspace(0, 1, N))}, whole=whole)
    record = one(compare(tmp_path), "untrained", "corpus_distinct_1")
    assert record["ci_high"] - record["ci_low"] < 0.1 * N**-0.5


def test_seeds_are_averaged_by_prompt_on_both_sides(tmp_path, add_run, rng):
    base = rng.uniform(0.2, 0.8, N)
    for seed, shift in ((0, -0.10), (1, 0.00), (2, -0.02)):
        add_run(tmp_path, "ppo", {"kl": base + shift + rng.normal(0, 0.001, N)}, seed=seed, train_reward=float(seed))
    for seed in (0, 1, 2, 3):
        add_run(tmp_path, "untrained", {"kl": base + (1.0 if seed == 3 else 0.0)}, seed=seed)
    comparison = compare(tmp_path)
    record = one(comparison, "ppo", "kl")
    assert record["n_seeds"] == 3
    assert record["n_scored"] == 3 * N
    # The difference is that of the two values shown: seed 3 of the baseline, far off, takes part.
    assert record["difference"] == pytest.approx(-0.04 - 0.25, abs=0.001)
    assert one(comparison, "untrained", "kl")["value"] == pytest.approx(base.mean() + 0.25)
    assert one(comparison, "ppo", "train_reward")["value"] == 1.0
    assert "ppo (seeds 0, 1, 2) is compared with untrained of seeds 0, 1, 2, 3." in comparison.notes


def test_seeds_the_baseline_lacks_are_said(tmp_path, add_run, rng):
    base = rng.uniform(0.2, 0.8, N)
    for seed in (0, 1):
        add_run(tmp_path, "ppo", {"kl": base + seed}, seed=seed)
    add_run(tmp_path, "untrained", {"kl": base + rng.normal(0, 0.01, N)})
    comparison = compare(tmp_path)
    assert one(comparison, "ppo", "kl")["difference"] == pytest.approx(0.5, abs=0.01)
    assert "ppo (seeds 0, 1) is compared with untrained of seed 0." in comparison.notes


def test_two_seeds_make_the_method_the_estimand(tmp_path, add_run, rng):
    # Seeds of PPO differ by far more than prompts do: sure about these runs, not about another seed.
    base = rng.uniform(0.2, 0.8, N)
    for seed, shift in ((0, -0.30), (1, 0.02), (2, -0.05)):
        add_run(tmp_path, "ppo", {"toxicity_mean@judge": base + shift + rng.normal(0, 0.01, N)}, seed=seed)
    for seed in (0, 1):
        add_run(tmp_path, "dpo", {"toxicity_mean@judge": base - 0.1 + rng.normal(0, 0.01, N)}, seed=seed)
    add_run(tmp_path, "kto", {"toxicity_mean@judge": base - 0.1 + rng.normal(0, 0.01, N)})
    add_run(tmp_path, "untrained", {"toxicity_mean@judge": base})
    comparison = compare(tmp_path)
    ppo, dpo, kto = (one(comparison, name, "toxicity_mean", "judge") for name in ("ppo", "dpo", "kto"))
    assert (ppo["estimand"], dpo["estimand"], kto["estimand"]) == ("the method", "the method", "these runs")
    assert ppo["verdict"] == "not distinguishable"
    assert ppo["runs_p_value"] < 0.001
    assert ppo["difference_ci_high"] - ppo["difference_ci_low"] > 10 * (ppo["runs_ci_high"] - ppo["runs_ci_low"])
    assert (dpo["verdict"], kto["verdict"]) == ("better", "better")
    assert "seeds_not_covered" in kto["flags"]
    assert "seeds_not_covered" not in ppo["flags"] + dpo["flags"]
    text = render(comparison, "details")
    assert "more prompts cannot" in text
    assert "kto: Verdicts are about these runs" in " ".join(text.split())
    # Welch over the means of three seeds against a policy without seeds: t with 2 degrees of freedom.
    shifts = np.array([-0.30, 0.02, -0.05])
    half = 4.303 * shifts.std(ddof=1) / math.sqrt(3)
    assert ppo["difference_ci_high"] - ppo["difference"] == pytest.approx(half, rel=0.03)


def test_a_trained_baseline_with_one_seed_leaves_these_runs(tmp_path, add_run, rng):
    base = rng.uniform(0.2, 0.8, N)
    for seed in (0, 1):
        add_run(tmp_path, "ppo", {"kl": base + seed + rng.normal(0, 0.01, N)}, seed=seed)
    add_run(tmp_path, "dpo", {"kl": base})
    assert one(compare(tmp_path, baseline="dpo"), "ppo", "kl")["estimand"] == "these runs"
    assert one(compare(tmp_path, baseline="ppo"), "dpo", "kl")["estimand"] == "these runs"


def test_corpus_metrics_cover_seeds_too(tmp_path, add_run, rng):
    columns = {"kl": rng.normal(size=N)}
    for seed, value in enumerate((0.2, 0.5, 0.45)):
        whole = [corpus("corpus_distinct_2", value, rng.normal(0, 0.0001, 20))]
        add_run(tmp_path, "ppo", columns, seed=seed, whole=whole)
    add_run(tmp_path, "untrained", columns, whole=[corpus("corpus_distinct_2", 0.6, rng.normal(0, 0.0001, 20))])
    record = one(compare(tmp_path), "ppo", "corpus_distinct_2")
    assert (record["estimand"], record["verdict"]) == ("the method", "not distinguishable")
    assert record["runs_p_value"] < 0.001
    half = 4.303 * np.std([0.2, 0.5, 0.45], ddof=1) / math.sqrt(3)
    assert record["difference_ci_high"] - record["difference"] == pytest.approx(half, rel=0.01)


def test_verdicts_follow_p_adjusted_for_the_family(tmp_path, add_run, rng):
    base = rng.uniform(0.2, 0.8, N)
    add_run(tmp_path, "untrained", {"kl": base, "distinct_2": base})
    wobble = rng.normal(0, 1, N)
    wobble -= wobble.mean()
    wobble /= wobble.std()
    for i, z in enumerate((2.3, 2.2, 1.0, 0.5)):
        change = wobble + z / math.sqrt(N)
        columns = {"kl": base + change} | ({"distinct_2": base + change} if i == 0 else {})
        add_run(tmp_path, f"ppo_{i}", columns)
    comparison = compare(tmp_path)
    records = [one(comparison, f"ppo_{i}", "kl") for i in range(4)]
    p = [record["p_value"] for record in records]
    assert p[0] < p[1] < 0.05 < p[2] < p[3]
    expected = [4 * p[0], max(4 * p[0], 3 * p[1]), 2 * p[2], 0]
    expected[3] = max(expected[2], p[3])
    assert [record["p_adjusted"] for record in records] == pytest.approx(expected)
    assert {record["verdict"] for record in records} == {"not distinguishable"}
    # Another metric is another family: alone in it, the same difference counts.
    alone = one(comparison, "ppo_0", "distinct_2")
    assert alone["p_adjusted"] == alone["p_value"] == p[0]
    assert alone["verdict"] == "better"
    assert "over the 4 recipes" in " ".join(comparison.notes)


def test_all_pairs_are_a_family_of_their_own(tmp_path, add_run, rng):
    base = rng.uniform(0.2, 0.8, N)
    for name, shift in (("untrained", 0.0), ("ppo", -0.1), ("dpo", -0.02), ("kto", -0.02)):
        add_run(tmp_path, name, {"toxicity_mean@judge": base + shift + rng.normal(0, 0.05, N)})
    assert compare(tmp_path).pairs == ()
    comparison = compare(tmp_path, all_pairs=True)
    pairs = [r for r in comparison.records() if r["family"] == "all pairs"]
    assert len(pairs) == 6
    p = sorted(record["p_value"] for record in pairs)
    expected = np.minimum(1, np.maximum.accumulate([(6 - rank) * one for rank, one in enumerate(p)]))
    assert sorted(record["p_adjusted"] for record in pairs) == pytest.approx(list(expected))
    (found,) = [r for r in pairs if (r["recipe"], r["baseline"]) == ("ppo", "kto")]
    assert (found["verdict"], found["difference"]) == ("better", pytest.approx(-0.08, abs=0.03))
    against = [r for r in comparison.records() if r["family"] == "baseline"]
    assert [r["p_adjusted"] for r in against] == [r["p_adjusted"] for r in compare(tmp_path).records() if r["family"]]
    assert "every pair, p adjusted for all 6" in render(comparison, "details")
