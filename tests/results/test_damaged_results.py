"""Bad input: damaged runs are named, skipped and counted."""

from __future__ import annotations

import json
import math
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import alignbench
from alignbench.cli import main
from alignbench.comparison.compare import compare
from alignbench.comparison.formats import render
from alignbench.records import Cost

N = 40
EVALUATION = "evaluations/trl-detox-v1"
RECIPE = "recipe.resolved.yaml"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, add_run):
    """Three runs that are not damaged."""
    root = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(2)
    base = rng.uniform(0.2, 0.8, N)
    for name, shift in (("untrained", 0.0), ("ppo", -0.1), ("dpo", -0.2)):
        values = base + shift + rng.normal(0, 0.01, N)
        add_run(root, name, {"toxicity_mean@judge": values, "kl": values})
    return root


@pytest.fixture
def results(tmp_path, whole):
    return shutil.copytree(whole, tmp_path / "r")


def call(*arguments):
    """Runs the command with warnings as errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def truncate(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def duplicate_prompt(path):
    frame = pd.read_parquet(path)
    frame.loc[1, "prompt_id"] = frame.loc[0, "prompt_id"]
    frame.to_parquet(path, index=False)


def without_ids(path):
    pd.read_parquet(path).drop(columns="prompt_id").to_parquet(path, index=False)


def instead_of_numbers(value):
    def spoil(run):
        path = run / EVALUATION / "prompt_values.parquet"
        frame = pd.read_parquet(path)
        frame["kl"] = [value] * len(frame)
        frame.to_parquet(path, index=False)

    return spoil


def changed_values(change):
    def spoil(run):
        path = run / EVALUATION / "prompt_values.parquet"
        change(pd.read_parquet(path)).to_parquet(path, index=False)

    return spoil


def one_value(value):
    return changed_values(lambda frame: frame.assign(kl=frame["kl"].where(frame.index != 3, value)))


def set_perplexity(value):
    """Column of 2000, whose exponential is out of all range, beside a stored value."""

    def spoil(run):
        changed_values(lambda frame: frame.assign(perplexity=2000.0))(run)
        add = {"metric": "perplexity", "scorer": None, "value": value, "direction": "lower"}
        edited(run / EVALUATION / "metrics.json", lambda c: c["metrics"].append(c["metrics"][1] | add))

    return spoil


def set_metric(**changes):
    return lambda run: edited(run / EVALUATION / "metrics.json", lambda c: c["metrics"][0].update(changes))


def set_status(**changes):
    return lambda run: edited(run / "status.json", lambda c: c.update(changes))


DAMAGE = {
    "removed": (shutil.rmtree, None),
    "a file": (lambda run: (shutil.rmtree(run), run.write_text("x")), None),
    "empty directory": (lambda run: (shutil.rmtree(run), run.mkdir()), "corrupt, no status.json"),
    "status cut off": (lambda run: truncate(run / "status.json"), "corrupt, status.json cannot be read"),
    "status empty": (lambda run: truncate(run / "status.json", 0), "corrupt, status.json cannot be read"),
    "status no object": (lambda run: (run / "status.json").write_text("7"), "corrupt, status.json cannot be read"),
    "status wrong type": (set_status(seed="two"), "corrupt, status.json: seed"),
    "status unknown state": (set_status(state="done"), "corrupt, status.json: state"),
    "status NaN": (set_status(train_reward=math.nan), "NaN is no finite number"),
    "status running": (set_status(state="running"), "unfinished"),
    "status failed": (set_status(state="failed", error="loss"), "unfinished, failed: loss"),
    "status failed, no error": (set_status(state="failed"), "unfinished, failed, and did not say why"),
    "newer": (set_status(schema_version=2), "newer, status.json: schema_version is 2"),
    "older than any": (set_status(schema_version=0), "corrupt, status.json: schema_version is 0"),
    "schema as text": (set_status(schema_version="1"), "corrupt, status.json: schema_version is '1'"),
    "newer evaluation": (
        lambda run: edited(run / EVALUATION / "metrics.json", lambda c: c.update(schema_version=3)),
        "newer, evaluations/trl-detox-v1/metrics.json: schema_version is 3",
    ),
    "no metrics": (lambda run: (run / EVALUATION / "metrics.json").unlink(), "incomplete, no evaluation"),
    "metrics cut off": (lambda run: truncate(run / EVALUATION / "metrics.json"), "corrupt, metrics.json cannot"),
    "metric wrong type": (set_metric(value="low"), "corrupt, metrics.json: metrics.0.value"),
    "metric infinite": (set_metric(value=math.inf), "Infinity is no finite number"),
    "metric too large": (
        lambda run: (run / EVALUATION / "metrics.json").write_text(
            (run / EVALUATION / "metrics.json").read_text().replace('"n_prompts": 40', '"n_prompts": 1e999')
        ),
        "1e999 is no finite number",
    ),
    "metric of no direction": (set_metric(direction="up"), "corrupt, metrics.json: metrics.0.direction"),
    "metric twice": (set_metric(metric="kl", scorer=None), "corrupt, metrics.json: Value error, a metric occurs twice"),
    "values cut off": (lambda run: truncate(run / EVALUATION / "prompt_values.parquet"), "corrupt, prompt_values"),
    "values empty": (lambda run: truncate(run / EVALUATION / "prompt_values.parquet", 0), "corrupt, prompt_values"),
    "values without ids": (lambda run: without_ids(run / EVALUATION / "prompt_values.parquet"), "corrupt"),
    "values are texts": (instead_of_numbers("high"), "corrupt, prompt_values.parquet"),
    "values are lists": (instead_of_numbers([0.1, 0.2]), "corrupt, prompt_values.parquet"),
    "values are structs": (instead_of_numbers({"a": 0.1}), "corrupt, prompt_values.parquet"),
    "values missing": (lambda run: (run / EVALUATION / "prompt_values.parquet").unlink(), "no prompt_values.parquet"),
    "values missing, other kind": (
        lambda run: (set_status(kind="reward_model")(run), (run / EVALUATION / "prompt_values.parquet").unlink()),
        "no prompt_values.parquet",
    ),
    "too few rows": (changed_values(lambda frame: frame.head(39)), "rows: got 39, expected 40"),
    "no rows": (changed_values(lambda frame: frame.head(0)), "rows: got 0, expected 40"),
    "other n_prompts": (
        lambda run: edited(run / EVALUATION / "metrics.json", lambda c: c.update(n_prompts=41)),
        "rows: got 40, expected 41",
    ),
    "infinite value": (one_value(math.inf), "corrupt, prompt_values.parquet: kl: an infinite value"),
    "minus infinite value": (one_value(-math.inf), "corrupt, prompt_values.parquet: kl: an infinite value"),
    "another value": (one_value(0.9999), "corrupt, metrics.json: kl: "),
    "another metric": (set_metric(value=0.25), "metrics.json: toxicity_mean@judge: 0.25 is not the mean of its column"),
    "column without a number": (changed_values(lambda frame: frame.assign(kl=math.nan)), "is not the mean of its"),
    "another perplexity": (set_perplexity(7.4), "7.4 is not the exponential of the mean of its column"),
    "negative perplexity": (set_perplexity(-1.0), "-1 is not the exponential of the mean of its column"),
    "metrics empty": (
        lambda run: edited(run / EVALUATION / "metrics.json", lambda c: c.update(metrics=[])),
        "corrupt, metrics.json: Value error, no metric at all",
    ),
    "prompts cut off": (lambda run: truncate(run / "prompts.json"), "corrupt, prompts.json cannot be read"),
    "prompts empty": (lambda run: truncate(run / "prompts.json", 0), "corrupt, prompts.json cannot be read"),
    "prompts wrong type": (lambda run: edited(run / "prompts.json", lambda c: c.update(seen=3)), "prompts.json: seen"),
    "prompts newer": (
        lambda run: edited(run / "prompts.json", lambda c: c.update(schema_version=2)),
        "newer, prompts.json: schema_version is 2",
    ),
    "recipe missing": (lambda run: (run / RECIPE).unlink(), "corrupt, no recipe.resolved.yaml"),
    "recipe empty": (lambda run: truncate(run / RECIPE, 0), "corrupt, recipe.resolved.yaml: got nothing"),
    "recipe no mapping": (lambda run: (run / RECIPE).write_text("- 1\n"), "recipe.resolved.yaml: got list"),
    "recipe no YAML": (lambda run: (run / RECIPE).write_text("a: [1\n"), "recipe.resolved.yaml cannot be read"),
    "recipe no text": (lambda run: (run / RECIPE).write_bytes(b"\xff\x00"), "recipe.resolved.yaml cannot be read"),
    "environment missing": (lambda run: (run / "environment.json").unlink(), "corrupt, no environment.json"),
    "environment cut off": (lambda run: truncate(run / "environment.json"), "corrupt, environment.json cannot be read"),
    "environment no object": (lambda run: (run / "environment.json").write_text("[1]"), "environment.json: got list"),
    "prompt id twice": (lambda run: duplicate_prompt(run / EVALUATION / "prompt_values.parquet"), "occurs twice"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_is_named_skipped_and_counted(results, damage):
    spoil, said = DAMAGE[damage]
    run = results / "ppo" / "seed0"
    spoil(run)
    paths = [results / "untrained", results / "dpo", run]
    result = call("compare", *paths)
    assert result.exit_code == 0, result.output
    flat = " ".join(result.stdout.split())
    assert "1 skipped:" in flat
    assert f"{run}: {said or 'missing'}" in flat or (said in flat and str(run) in flat)
    assert "dpo" in flat
    for style in ("json", "csv"):
        assert str(run) in call("compare", *paths, "--format", style).stdout
    # A single recipe is left: it is shown, and the exit code says that nothing was compared.
    alone = call("compare", results / "untrained", run)
    assert alone.exit_code == 3
    assert "untrained" in alone.stdout
    assert "nothing was compared: got untrained alone, expected two recipes or more in one table; 1 skipped" in (
        alone.stderr
    )


# What `compare` alone decides.
NOT_FOR_FRAMES = {"no metrics"}


@pytest.mark.parametrize("damage", sorted(DAMAGE.keys() - NOT_FOR_FRAMES))
def test_frames_and_the_listing_skip_it_too(results, damage):
    run = results / "ppo" / "seed0"
    DAMAGE[damage][0](run)
    paths = [results / "untrained", run]
    for load in (alignbench.load_results, alignbench.load_metrics):
        with pytest.warns(UserWarning, match="1 skipped") as caught:
            assert set(load(paths)["recipe"]) == {"untrained"}
        assert str(run) in str(caught[0].message)
    assert "1 complete, 1 not" in call("ls", *paths).stdout


def test_rounding_is_no_damage(results):
    path = results / "ppo" / "seed0" / EVALUATION / "metrics.json"
    edited(path, lambda c: c["metrics"][0].update(value=c["metrics"][0]["value"] * (1 + 5e-7)))
    edited(path, lambda c: c["metrics"][1].update(value=None, reason="withheld"))
    assert compare(results).skipped == ()
    edited(path, lambda c: c["metrics"][0].update(value=c["metrics"][0]["value"] * (1 + 5e-6)))
    assert len(compare(results).skipped) == 1


def test_damaged_values_of_a_point_along_training(results, begin, report, comparability):
    with begin(results, "kto") as run:
        run.write_evaluation(report({"kl": [0.1] * N}), comparability)
        run.write_evaluation(report({"kl": [0.1] * N}), {}, step=0, completions=0)
        path = run.complete(cost=Cost())
    assert len(alignbench.load_curves(path)) == 1
    point = path / EVALUATION / "step0" / "prompt_values.parquet"
    pd.read_parquet(point).assign(kl=0.2).to_parquet(point, index=False)
    with pytest.warns(UserWarning, match="seed0: corrupt, metrics.json: kl: 0.1 is not the mean"):
        assert alignbench.load_curves(path).empty
    assert compare(results).skipped == ()


def test_one_prompt_is_one_prompt(tmp_path, add_run):
    add_run(tmp_path, "untrained", {"kl": [0.5]})
    assert "1 held-out prompt, 1 completion each" in render(compare(tmp_path), "details")


def test_all_damaged(results):
    for status in results.glob("*/seed0/status.json"):
        truncate(status)
    result = call("compare", results)
    assert result.exit_code == 1
    assert result.output.count("corrupt, status.json cannot be read") == 3
    assert call("ls", results).exit_code == 0


def test_a_damaged_baseline_is_named(results):
    truncate(results / "untrained" / "seed0" / "status.json")
    for more in ((), ("--baseline", "untrained")):
        result = call("compare", results, *more)
        assert result.exit_code == 2
        assert "1 skipped:" in result.stderr
        assert "untrained/seed0: corrupt, status.json cannot be read" in result.stderr
    assert call("compare", results, "--baseline", "dpo").exit_code == 0


def test_mixed_schemas(results):
    for name, version in (("ppo", 2), ("dpo", 0)):
        set_status(schema_version=version)(results / name / "seed0")
    result = call("compare", results)
    assert result.exit_code == 3
    assert "2 skipped" in result.stdout
    assert "upgrade alignbench" in " ".join(result.stdout.split())


def test_seeds_of_one_recipe_are_no_comparison(results, add_run):
    add_run(results, "untrained", {"kl": np.linspace(0, 1, N)}, seed=1)
    assert call("compare", results / "untrained", "--allow-mismatch").exit_code == 3


def test_two_reward_models_are_a_comparison(tmp_path, add_run):
    for name in ("rm_a", "rm_b"):
        add_run(tmp_path, name, {"pair_accuracy": [0.0, 1.0] * 10}, kind="reward_model", protocol="reward-model")
    assert call("compare", tmp_path).exit_code == 0
    assert call("compare", tmp_path / "rm_a").exit_code == 3


def test_damaged_completions_cost_only_what_is_read_from_them(tmp_path, add_run, comparability):
    rng = np.random.default_rng(4)
    base = rng.uniform(0.2, 0.8, N)
    for name, shift in (("untrained", 0), ("ppo", -0.3)):
        columns = {"toxicity_mean@judge": base + shift + rng.normal(0, 0.01, N), "completion_tokens": [20 + 30 * shift]}
        columns["completion_tokens"] = np.full(N, 20 + 30 * shift) + rng.normal(0, 0.1, N)
        path = add_run(tmp_path, name, columns, comparability=comparability | {"toxicity_threshold": 0.5})
    file = path / EVALUATION / "completions.parquet"
    for spoil, said in (
        (lambda: None, "'toxicity@judge'"),  # the fixture stores no scores
        (lambda: truncate(file), "completions.parquet cannot be read"),
        (file.unlink, "no completions.parquet"),
    ):
        spoil()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            comparison = compare(tmp_path)
        (flag,) = [flag for flag in comparison.recipes[1].flags if flag.name == "length_shift"]
        assert said in flag.text
        (record,) = [r for r in comparison.records() if (r["recipe"], r["metric"]) == ("ppo", "toxicity_mean")]
        assert (record["verdict"], record["length_matched_difference"]) == ("better", None)
        assert said in record["length_matched_reason"]
