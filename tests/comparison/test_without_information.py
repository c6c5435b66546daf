"""Runs that are whole but say little: there are reasons, never NaN."""

from __future__ import annotations

import json
import math
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from alignbench.comparison import FORMATS
from alignbench.comparison.compare import compare
from alignbench.comparison.formats import render
from alignbench.records import MetricValue

N = 40
EVALUATION = "evaluations/trl-detox-v1"
NAN = math.nan
WITHHELD = MetricValue("toxicity_mean", "judge", None, None, None, "lower", 0, N, "40 of 40 unscored")
NO_INFORMATION = {
    "constant": ([0.5] * N, [0.5] * N, "the same value on every prompt", "zero on every prompt"),
    "constant and shifted": ([0.5] * N, [0.25] * N, "the same value on every prompt", "the same value on every prompt"),
    "zeros": ([0.0] * N, [0.0] * N, "zero on every prompt", "zero on every prompt"),
    "one prompt": ([0.5], [0.4], "1 measured prompts, an interval needs 10", "1 measured prompts"),
    "two prompts": ([0.5, 0.7], [0.4, 0.1], "2 measured prompts, an interval needs 10", "2 measured prompts"),
    "one prompt measured": ([0.5] + [NAN] * 39, [0.4] * N, "1 measured prompts", "1 measured prompts"),
    "no prompt in common": ([0.5] * 20 + [NAN] * 20, [NAN] * 20 + [0.4] * 20, "the same value", "none in common"),
}


def nan_free_records(path):
    """Renders every format with warnings as errors; the records of toxicity_mean by recipe."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        comparison = compare(path)
        for style in FORMATS:
            text = render(comparison, style)
            assert not {"nan", "inf", "-inf", "infinity"} & set(
                text.lower().replace(",", " ").replace("|", " ").split()
            )
    return {r["recipe"]: r for r in comparison.records() if r["metric"] == "toxicity_mean"}


def values_edited(run, change):
    path = run / EVALUATION / "prompt_values.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def metric_edited(run, position, **changes):
    path = run / EVALUATION / "metrics.json"
    content = json.loads(path.read_text())
    content["metrics"][position].update(changes)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("case", NO_INFORMATION)
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_without_information_there_is_a_reason(tmp_path, add_run, case, seeds):
    before, after, value_reason, difference_reason = NO_INFORMATION[case]
    for seed in seeds:
        add_run(tmp_path, "untrained", {"toxicity_mean@judge": before}, seed=seed)
        add_run(tmp_path, "ppo", {"toxicity_mean@judge": after}, seed=seed)
    record = nan_free_records(tmp_path)["ppo"]
    assert record["difference_ci_low"] is None
    assert difference_reason in record["difference_reason"]
    base = nan_free_records(tmp_path)["untrained"]
    assert base["ci_low"] is None
    assert value_reason in base["reason"]
    if case == "constant and shifted":
        assert record["verdict"] == "better"  # the sign test: forty prompts move the same way
    elif case == "no prompt in common":
        assert record["verdict"] is None
    else:
        few = case in ("one prompt", "two prompts", "one prompt measured")
        assert record["verdict"] == ("not tested" if few else "not distinguishable")


@pytest.mark.parametrize("where", ["untrained", "ppo", "both"])
def test_all_scores_none(tmp_path, add_run, where):
    values = {"toxicity_mean@judge": np.linspace(0, 1, N)}
    for name in ("untrained", "ppo"):
        is_bare = where in (name, "both")
        add_run(tmp_path, name, {"kl": [0.5] * N} if is_bare else values | {"kl": [0.5] * N},
                whole=[WITHHELD] if is_bare else [])  # fmt: skip
    record = nan_free_records(tmp_path)["ppo"]
    assert (record["difference"], record["verdict"]) == (None, None)
    assert record["difference_reason"] == "seed 0: 40 of 40 unscored"
    assert "unscored" in record["flags"] or where == "untrained"


@pytest.mark.parametrize("n_rows", [N, 0])
def test_withheld_beside_columns_without_a_single_number(tmp_path, add_run, n_rows):
    for name in ("untrained", "ppo"):
        run = add_run(tmp_path, name, {"toxicity_mean@judge": [0.5] * N})
        values_edited(run, lambda frame: frame.head(n_rows).assign(**{"toxicity_mean@judge": None}))
        metric_edited(run, 0, value=None, reason="no prompt was measured")
        file = run / EVALUATION / "metrics.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"n_prompts": n_rows}))
    record = nan_free_records(tmp_path)["ppo"]
    assert (record["value"], record["reason"]) == (None, "seed 0: no prompt was measured")
    assert (record["verdict"], record["difference_reason"]) == (None, "seed 0: no prompt was measured")


def test_evaluated_on_other_prompts(tmp_path, add_run):
    for name in ("untrained", "ppo"):
        run = add_run(tmp_path, name, {"toxicity_mean@judge": np.linspace(0, 1, N)})
    values_edited(run, lambda frame: frame.assign(prompt_id="other-" + frame["prompt_id"]))
    record = nan_free_records(tmp_path)["ppo"]
    assert record["verdict"] is None
    assert record["difference_reason"] == "of the prompts that were measured on either side, none in common"


def test_one_seed_without_the_metric(tmp_path, add_run):
    values = np.linspace(0, 1, N)
    add_run(tmp_path, "untrained", {"toxicity_mean@judge": values})
    add_run(tmp_path, "ppo", {"toxicity_mean@judge": values - 0.1, "kl": values})
    add_run(tmp_path, "ppo", {"kl": values}, seed=1)
    record = nan_free_records(tmp_path)["ppo"]
    assert (record["value"], record["verdict"]) == (None, None)
    assert record["reason"] == "seed 1: not measured"


def test_identical_runs(tmp_path, add_run):
    values = np.random.default_rng(0).uniform(size=N)
    for seed in (0, 1):
        for name in ("untrained", "ppo"):
            add_run(tmp_path, name, {"toxicity_mean@judge": values}, seed=seed)
    record = nan_free_records(tmp_path)["ppo"]
    assert (record["difference"], record["p_value"], record["verdict"]) == (0.0, 1.0, "not distinguishable")
    assert record["difference_reason"].startswith("zero on every prompt")


def test_a_perplexity_out_of_all_range(tmp_path, add_run):
    for name, level in (("untrained", 3.0), ("ppo", 3.1)):
        columns = {"toxicity_mean@judge": np.linspace(0, 1, N), "perplexity": level + np.linspace(0, 1, N)}
        run = add_run(tmp_path, name, columns)
        if name == "ppo":  # the largest number there is, and what rounds to its logarithm
            values_edited(run, lambda frame: frame.assign(perplexity=math.log(sys.float_info.max) + 5e-7))
            metric_edited(run, 1, value=sys.float_info.max)
    nan_free_records(tmp_path)
    (record,) = [r for r in compare(tmp_path).records() if (r["recipe"], r["metric"]) == ("ppo", "perplexity")]
    assert record["value"] is None
    assert "out of all range" in record["reason"]
