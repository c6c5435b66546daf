from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from fixtures.compared import N, corpus, one

from alignbench.comparison.compare import compare
from alignbench.comparison.formats import render
from alignbench.comparison.pooling import NOT_STORED
from alignbench.errors import ResultsError, UsageError
from alignbench.records import Cost, MetricKey, MetricValue

FIELDS = [
    "recipe", "method", "metric", "scorer", "value", "ci_low", "ci_high", "reason", "n_scored", "n_unscored", "n_cut",
    "n_seeds", "seeds", "baseline", "difference", "difference_ci_low", "difference_ci_high", "difference_reason",
    "p_value", "p_adjusted", "verdict", "family", "estimand", "runs_difference", "runs_ci_low", "runs_ci_high",
    "runs_p_value", "detectable_difference", "settling_prompts", "settling_seeds", "length_matched_difference",
    "length_matched_ci_low", "length_matched_ci_high", "length_matched_share", "length_matched_reason",
    "reward_hacking", "reward_hacking_seeds", "reward_hacking_onset", "reward_hacking_evidence", "flags", "protocol",
    "n_prompts", "samples_per_prompt", "mismatch", "notes", "skipped", "rank_first", "rank_last", "p_all_pairs",
    "verdict_all_pairs", "model",
]  # fmt: skip


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_verdicts_intervals_and_fields(tmp_path, add_run, rng):
    base = rng.uniform(0.2, 0.8, N)
    noise = rng.normal(0, 0.01, (2, N))
    wobble = np.tile([0.1, -0.1], N // 2)
    add_run(tmp_path, "untrained", {"toxicity_mean@judge": base, "kl": noise[0], "distinct_2": base})
    shifted = {"toxicity_mean@judge": base - 0.1 + noise[0], "kl": noise[0] + 1 + noise[1], "distinct_2": base + wobble}
    add_run(tmp_path, "ppo", shifted)
    add_run(tmp_path, "dpo", {"toxicity_mean@judge": base + 0.1 + noise[0], "kl": noise[0], "distinct_2": base - 0.1})
    comparison = compare(tmp_path)
    assert comparison.baseline == "untrained"
    assert [row.recipe for row in comparison.recipes] == ["untrained", "dpo", "ppo"]
    better = one(comparison, "ppo", "toxicity_mean", "judge")
    assert list(better) == FIELDS
    assert better["difference"] == pytest.approx(float(np.mean(noise[0])) - 0.1)
    assert better["difference_ci_low"] < better["difference"] < better["difference_ci_high"] < 0
    assert better["difference_ci_high"] - better["difference_ci_low"] < 0.01  # paired: prompts vary sixty times as much
    assert better["ci_high"] - better["ci_low"] > 0.05
    assert (better["verdict"], better["baseline"], better["n_scored"], better["n_seeds"]) == (
        "better",
        "untrained",
        N,
        1,
    )
    assert one(comparison, "dpo", "toxicity_mean", "judge")["verdict"] == "worse"
    assert one(comparison, "ppo", "kl")["verdict"] == "different"
    assert one(comparison, "ppo", "distinct_2")["verdict"] == "not distinguishable"
    assert one(comparison, "dpo", "distinct_2")["verdict"] == "worse"
    own = one(comparison, "untrained", "toxicity_mean", "judge")
    assert (own["baseline"], own["difference"], own["p_value"], own["verdict"]) == (None, None, None, None)
    assert own["value"] == pytest.approx(base.mean())


def test_withheld_and_missing_metrics_have_no_verdict(tmp_path, add_run, rng):
    columns = {"toxicity_mean@judge": rng.uniform(size=N), "kl": rng.uniform(size=N)}
    withheld = MetricValue("toxicity_mean", "judge", None, None, None, "lower", 50, 10, "10 of 60 unscored")
    add_run(tmp_path, "untrained", columns)
    add_run(tmp_path, "ppo", {"kl": columns["kl"] + rng.normal(size=N)}, whole=[withheld])
    add_run(tmp_path, "dpo", {"toxicity_mean@judge": columns["toxicity_mean@judge"]})
    comparison = compare(tmp_path)
    record = one(comparison, "ppo", "toxicity_mean", "judge")
    assert (record["value"], record["difference"], record["verdict"], record["n_unscored"]) == (None, None, None, 10)
    assert "unscored" in record["flags"]
    row = next(row for row in comparison.recipes if row.recipe == "ppo")
    reason = row.metrics[MetricKey("toxicity_mean", "judge")].value.reason
    assert reason == "seed 0: 10 of 60 unscored"
    assert not [r for r in comparison.records() if (r["recipe"], r["metric"]) == ("dpo", "kl")]
    assert "10 of 60 unscored" in render(comparison, "details")


def test_baseline_without_the_metric(tmp_path, add_run, rng):
    withheld = MetricValue("kl", None, None, None, None, "none", 0, N, "the policy has no token log-probabilities")
    add_run(tmp_path, "untrained", {"distinct_2": rng.uniform(size=N)}, whole=[withheld])
    add_run(tmp_path, "ppo", {"distinct_2": rng.uniform(size=N), "kl": rng.uniform(size=N)})
    record = one(compare(tmp_path), "ppo", "kl")
    assert record["value"] is not None
    assert (record["difference"], record["verdict"]) == (None, None)


def test_values_without_prompts_are_shown_untested(tmp_path, add_run):
    add_run(tmp_path, "untrained", {}, whole=[MetricValue("kl", None, 0.1, 0.0, 0.2, "none", 50, 0)])
    add_run(tmp_path, "ppo", {}, whole=[MetricValue("kl", None, 0.5, 0.4, 0.6, "none", 50, 0)])
    comparison = compare(tmp_path)
    record = one(comparison, "ppo", "kl")
    assert (record["value"], record["ci_low"], record["verdict"]) == (0.5, 0.4, None)
    assert comparison.recipes[1].metrics[MetricKey("kl")].difference.reason == NOT_STORED


def test_constant_single_and_unmeasured_prompts(tmp_path, add_run, recwarn):
    nan = [math.nan] * 3
    add_run(tmp_path, "untrained", {"empty_rate": [0.0] * 12, "kl": [*nan, *[0.5] * 9]})
    add_run(tmp_path, "ppo", {"empty_rate": [0.0] * 12, "kl": [0.25] * 12})
    comparison = compare(tmp_path)
    record = one(comparison, "ppo", "empty_rate")
    assert (record["difference"], record["p_value"], record["verdict"]) == (0.0, 1.0, "not distinguishable")
    assert (record["ci_low"], record["difference_ci_low"]) == (None, None)
    few = one(comparison, "ppo", "kl")  # nine prompts in common
    assert (few["difference"], few["p_value"], few["verdict"]) == (-0.25, None, "not tested")
    assert "NaN" not in render(comparison, "json")
    assert not recwarn.list


def test_baseline_choice(tmp_path, add_run):
    values = {"kl": list(np.linspace(0, 1, N))}
    add_run(tmp_path, "ppo_detox", values)
    assert compare(tmp_path).baseline == "ppo_detox"  # alone, there is nothing to choose
    add_run(tmp_path, "dpo", values)
    with pytest.raises(UsageError, match=r"no untrained run.*--baseline.*dpo, ppo_detox"):
        compare(tmp_path)
    assert compare(tmp_path, baseline="dpo").recipes[0].recipe == "dpo"
    with pytest.raises(UsageError, match=r"got 'ppo_detx'.*did you mean 'ppo_detox'"):
        compare(tmp_path, baseline="ppo_detx")
    add_run(tmp_path, "untrained_a", values, method="untrained")
    add_run(tmp_path, "untrained_b", values, method="untrained")
    with pytest.raises(UsageError, match=r"several untrained runs \(untrained_a, untrained_b\)"):
        compare(tmp_path)


def test_same_name_in_two_places(tmp_path, add_run):
    values = {"kl": list(np.linspace(0, 1, N))}
    add_run(tmp_path / "a", "ppo", values)
    add_run(tmp_path / "b", "ppo", values)
    with pytest.raises(ResultsError, match="ppo/seed0 occurs twice"):
        compare([tmp_path / "a", tmp_path / "b"])
    assert len(compare([tmp_path / "a", tmp_path / "a" / "ppo"]).recipes) == 1


def test_unusable_runs_are_named_and_counted(tmp_path, add_run, begin):
    values = {"kl": list(np.linspace(0, 1, N))}
    add_run(tmp_path, "untrained", values)
    damaged = add_run(tmp_path, "ppo", values)
    (damaged / "evaluations" / "trl-detox-v1" / "prompt_values.parquet").write_bytes(b"no")
    begin(tmp_path, "dpo").release()
    with begin(tmp_path, "bare") as run:
        run.complete(cost=Cost())
    comparison = compare(tmp_path)
    assert [row.recipe for row in comparison.recipes] == ["untrained"]
    text = render(comparison, "details")
    assert "3 skipped:" in text
    for said in ("ppo/seed0: corrupt", "dpo/.seed0.partial: unfinished", "bare/seed0: incomplete, no evaluation"):
        assert said in text.replace("\n    ", " ")


def test_nothing_to_compare(tmp_path, begin):
    with begin(tmp_path, "bare") as run:
        run.complete(cost=Cost())
    with pytest.raises(ResultsError, match="no run has an evaluation that can be read"):
        compare(tmp_path)


def test_several_protocols(tmp_path, begin, report):
    with begin(tmp_path, "untrained") as run:
        for name in ("rtp-v1", "trl-detox-v1"):
            run.write_evaluation(report({"kl": [0.1, 0.2] * 6}, protocol=name), {})
        run.complete(cost=Cost())
    with pytest.raises(UsageError, match="rtp-v1, trl-detox-v1"):
        compare(tmp_path)
    assert compare(tmp_path, protocol="rtp-v1").protocol == "rtp-v1"


def test_reward_models_have_their_own_table(tmp_path, add_run, comparability):
    add_run(tmp_path, "untrained", {"kl": list(np.linspace(0, 1, N))})
    for name, pairs in (("rm_a", "x"), ("rm_b", "x"), ("rm_c", "y")):
        accuracy = {"pair_accuracy": [0.0, 1.0, 1.0, 1.0] * 5}
        settings = {"kind": "reward_model", "protocol": "reward-model", "comparability": {"heldout_pairs": pairs}}
        add_run(tmp_path, name, accuracy, **settings)
    comparison = compare(tmp_path)
    assert [row.recipe for row in comparison.recipes] == ["untrained"]
    assert [[row.recipe for row in group] for group in comparison.reward_models] == [["rm_a", "rm_b"], ["rm_c"]]
    record = one(comparison, "rm_a", "pair_accuracy")
    assert (record["value"], record["baseline"], record["verdict"]) == (0.75, None, None)
    assert record["ci_low"] < 0.75 < record["ci_high"]
    (tmp_path / "untrained").rename(tmp_path.parent / "elsewhere")
    assert compare(tmp_path).baseline is None


def test_cost_includes_upstream(tmp_path, add_run):
    values = {"kl": list(np.linspace(0, 1, N))}
    add_run(tmp_path, "untrained", values)
    for seed in (0, 1):
        own = Cost(100.0 + 20 * seed, 1.0 + seed, 1000, 20_000, 1000, 50, 7)
        add_run(tmp_path, "ppo", values, seed=seed, cost=own, upstream_cost=Cost(10.0, 1.5, 500, 10_000, 600, 5, 9))
    comparison = compare(tmp_path)
    values = {
        name: one(comparison, "ppo", name)["value"] for name in ("wall_seconds", "peak_memory_gib", "reward_calls")
    }
    assert values == {"wall_seconds": 120.0, "peak_memory_gib": 2.0, "reward_calls": 1600.0}
    assert one(comparison, "ppo", "training_completions")["value"] == 1500


FAST_AND_LIGHT = """
import json, resource, sys
from alignbench.comparison.compare import compare
from alignbench.comparison import FORMATS
from alignbench.comparison.formats import render
def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
comparison = compare(sys.argv[1])
text, page = render(comparison, "details"), render(comparison)
seconds = spent()
heavy = [name for name in ("torch", "transformers", "trl", "pandas", "scipy.stats", "datasets") if name in sys.modules]
import torch, transformers.modeling_utils
lines = [len(one.splitlines()) for one in (text, page)]
seen = {"seconds": seconds, "seconds_of_torch": spent() - seconds, "heavy": heavy, "lines": lines}
print(json.dumps(seen))
"""


def test_ten_runs_take_less_than_it_takes_to_load_torch(tmp_path, add_run, rng):
    whole = [corpus(f"corpus_distinct_{n}", 0.5, rng.normal(0, 0.01, 20)) for n in (1, 2, 3)]
    for i in range(10):
        names = [
            f"{metric}@{scorer}" for metric in ("toxicity_mean", "toxicity_rate") for scorer in ("reward", "judge")
        ]
        names += ["kl", "perplexity", "distinct_2", "completion_tokens", "repetition_rate", "empty_rate"]
        columns = {name: rng.uniform(size=400) for name in names}
        add_run(tmp_path, f"ppo_{i}" if i else "untrained", columns, whole=whole)
    command = [sys.executable, "-c", FAST_AND_LIGHT, str(tmp_path)]
    seen = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert seen["heavy"] == []
    assert seen["lines"][0] > 40 >= seen["lines"][1]
    # Of processor time, both in one process: what else runs on this machine, and how fast it is, does not count.
    assert seen["seconds"] < seen["seconds_of_torch"]


def test_scorers_of_one_run_that_disagree_are_flagged(tmp_path, add_run):
    """Over the mean of both seeds, and in the row of that recipe alone."""
    rng = np.random.default_rng(5)
    for recipe, sign in (("untrained", 1), ("ppo", -1)):
        for seed in (0, 1):
            harm = rng.uniform(0.3, 0.7, N)
            judge = 0.5 + sign * (harm - 0.5) + rng.normal(0, 0.05, N)
            columns = {"toxicity_mean@reward": harm, "toxicity_mean@judge": judge}
            add_run(tmp_path / "apart", recipe, columns, seed=seed)
            groups = {f"p{i}": f"text{i % 9}" for i in range(N)}
            add_run(tmp_path / "variants", recipe, columns, seed=seed, prompt_groups=groups)
    rows = {row.recipe: row for row in compare(tmp_path / "apart").recipes}
    (flag,) = [flag for flag in rows["ppo"].flags if flag.name == "scorers_disagree"]
    assert "reward and judge: r = -0." in flag.text
    assert f"over {N} prompts" in flag.text
    assert "scorers_disagree" not in [flag.name for flag in rows["untrained"].flags]
    # Nine texts are too few to say it, however many variants each has.
    assert not any(
        flag.name == "scorers_disagree" for row in compare(tmp_path / "variants").recipes for flag in row.flags
    )
