from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

import alignbench
from alignbench.comparison.compare import compare
from alignbench.errors import ResultsError
from alignbench.recipe.loading import load
from alignbench.records import Cost, MetricValue
from alignbench.results.reader import find_runs, read_run
from alignbench.results.schema import Upstream

VALUES = {"toxicity_mean@judge": [0.1, 0.3] * 6, "perplexity": [1.0, 3.0] * 6}


@pytest.fixture
def results(tmp_path, add_run):
    root = tmp_path / "results"
    add_run(root, "untrained", VALUES)
    add_run(
        root,
        "ppo_detox",
        VALUES,
        seed=1,
        cost=Cost(10.0, 2.0, 100, 2000, 100, 8, 5000),
        upstream_cost=Cost(5.0, 3.0, 50, 1000, 50, 4, 7000),
        upstream=[Upstream(recipe="reward_model", seed=1, run_hash="x", role="reward")],
        train_reward=1.25,
        log=[{"objective/kl": 0.1}, {"objective/kl": 0.2, "time/rollout_seconds": 3.0}],
    )
    return root


def test_a_row_per_run(results):
    frame = alignbench.load_results(results)
    assert list(frame["recipe"]) == ["ppo_detox", "untrained"]
    row = frame.iloc[0]
    assert (row["method"], row["seed"], row["kind"], row["state"]) == ("ppo", 1, "policy", "complete")
    assert row["protocol"] == "trl-detox-v1"
    assert row["train_reward"] == 1.25
    # Charged: sums, the maximum of peaks and of trainable parameters.
    assert (row["wall_seconds"], row["own_wall_seconds"], row["upstream_wall_seconds"]) == (15.0, 10.0, 5.0)
    assert (row["peak_memory_gib"], row["training_completions"], row["trainable_parameters"]) == (3.0, 150, 7000)
    assert row["upstream"] == "reward_model/seed1 (reward)"
    assert row["hardware_class"] == "cpu-x86_64"
    assert row["run_hash"] == "ppo_detox-1"


@pytest.fixture
def read_as_yaml(monkeypatch):
    """The texts that are read as YAML from here on."""
    texts, load_yaml = [], YAML.load
    monkeypatch.setattr(YAML, "load", lambda self, text: texts.append(text) or load_yaml(self, text))
    return texts


def test_a_recipe_is_read_as_yaml_only_where_the_status_lacks_it_or_the_file_has_changed(
    tmp_path, add_run, read_as_yaml
):
    recipe = load(["ppo_detox"])[0].recipe
    for seed in (0, 1):
        same = recipe.model_copy(update={"seed": seed})
        run = add_run(tmp_path, "ppo", VALUES, seed=seed, resolved_recipe=same.to_yaml())
    add_run(tmp_path, "untrained", VALUES)
    read_as_yaml.clear()
    first = compare(tmp_path)
    assert read_run(run).recipe == same.resolved()
    assert read_as_yaml == []
    file = run / "recipe.resolved.yaml"
    file.write_text(file.read_text() + "# looked at\n")
    assert read_run(run).recipe == same.resolved()
    assert len(read_as_yaml) == 1
    for status in tmp_path.glob("*/seed*/status.json"):  # as runs from before it was there have them
        status.write_text(
            json.dumps({key: value for key, value in json.loads(status.read_text()).items() if key != "resolved"})
        )
    assert compare(tmp_path) == first
    assert len(read_as_yaml) == 4


def test_a_row_per_metric(results):
    frame = alignbench.load_metrics(results)
    assert list(frame.columns) == [
        "recipe", "method", "seed", "protocol", "metric", "scorer", "value", "ci_low", "ci_high", "direction",
        "n_scored", "n_unscored", "n_cut", "reason",
    ]  # fmt: skip
    assert len(frame) == 4
    judged = frame[(frame["recipe"] == "untrained") & (frame["metric"] == "toxicity_mean")].iloc[0]
    assert judged["scorer"] == "judge"
    assert judged["value"] == pytest.approx(0.2)
    assert judged["n_scored"] == 12


def test_completions_and_training_log(results):
    completions = alignbench.load_completions(results)
    assert len(completions) == 24
    assert list(completions.columns[:5]) == ["recipe", "method", "seed", "protocol", "prompt_id"]
    log = alignbench.load_train_log(results)
    assert list(log["step"]) == [1, 2]
    assert list(log["objective/kl"]) == [0.1, 0.2]
    assert log["time/rollout_seconds"].isna().tolist() == [True, False]
    assert set(log["recipe"]) == {"ppo_detox"}


def test_token_ids_of_runs_that_have_them(results, tmp_path, begin, report):
    """Beside runs from before they were kept."""
    ids = [np.array([3, 1], dtype=np.int32), np.array([], dtype=np.int32)]
    texts = pd.DataFrame({"prompt_id": ["p0", "p1"], "sample": 0, "completion": ["am", ""], "token_ids": ids})
    sampled = pd.DataFrame({"prompt_id": ["p0", "p1"], "prompt_token_ids": [ids[0], None], "token_ids": ids})
    with begin(results, "dpo") as run:
        measured = report({"kl": [0.0, 0.0]}, completions=texts)
        run.write_evaluation(dataclasses.replace(measured, divergence=sampled), {})
        run.complete(cost=Cost())
    completions = alignbench.load_completions(results)
    assert len(completions) == 24 + 2
    by_recipe = completions.groupby("recipe")["token_ids"]
    assert by_recipe.count().to_dict() == {"dpo": 2, "ppo_detox": 0, "untrained": 0}
    assert [row.tolist() for row in by_recipe.get_group("dpo")] == [[3, 1], []]
    divergence = alignbench.load_divergence(results)
    assert list(divergence.columns[:5]) == ["recipe", "method", "seed", "protocol", "prompt_id"]
    assert divergence["prompt_token_ids"][0].tolist() == [3, 1]
    assert divergence["prompt_token_ids"][1] is None
    assert alignbench.load_divergence(results / "untrained").empty


def test_root_recipe_run_and_lists_of_them(results):
    run = results / "ppo_detox" / "seed1"
    for paths in (run, str(run), results / "ppo_detox", [run], [run, results / "ppo_detox"]):
        assert [one.path for one in find_runs(paths)[0]] == [run]
    assert len(find_runs([results, run])[0]) == 2


@pytest.mark.parametrize("paths", ["nowhere", [], "empty"])
def test_nothing_there(tmp_path, paths):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultsError, match="no complete run in"):
        alignbench.load_results(tmp_path / paths if isinstance(paths, str) else paths)


def test_newer_schema_names_file_and_versions(results):
    path = results / "ppo_detox" / "seed1" / "status.json"
    path.write_text(json.dumps({"schema_version": 2, "state": {"new": "shape"}}))
    said = r"seed1: newer, status.json: schema_version is 2, this alignbench reads up to 1; upgrade alignbench"
    with pytest.warns(UserWarning, match=said):
        assert list(alignbench.load_results(results)["recipe"]) == ["untrained"]
    with pytest.raises(ResultsError, match="schema_version is 2"):
        read_run(path.parent)


def test_fields_added_within_the_schema_are_read_past(results):
    path = results / "ppo_detox" / "seed1" / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"flops": 3}))
    assert len(alignbench.load_results(results)) == 2


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("status.json", None, "no status.json"),
        ("status.json", "{", "status.json cannot be read"),
        ("status.json", "[]", "status.json cannot be read"),
        ("status.json", b"\xff\xfe\x00", "status.json cannot be read"),
        ("status.json", '{"schema_version": 1}', "Field required"),
        ("evaluations/trl-detox-v1/metrics.json", "{}", "metrics.json cannot be read"),
    ],
)
def test_corrupt_runs_are_named_and_skipped(results, file, content, said):
    path = results / "ppo_detox" / "seed1" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.warns(UserWarning, match="1 skipped") as caught:
        frame = alignbench.load_results(results)
    assert list(frame["recipe"]) == ["untrained"]
    message = str(caught[0].message)
    assert "seed1: corrupt" in message
    assert said in message
    assert caught[0].filename == __file__  # the warning points at the caller
    with pytest.raises(ResultsError, match="--force"):
        read_run(results / "ppo_detox" / "seed1")


def test_damaged_parquet_and_log_are_skipped(results):
    run = results / "ppo_detox" / "seed1"
    (run / "evaluations" / "trl-detox-v1" / "completions.parquet").write_bytes(b"PAR1 no more")
    with pytest.warns(UserWarning, match=r"seed1: corrupt, completions\.parquet"):
        assert set(alignbench.load_completions(results)["recipe"]) == {"untrained"}
    (run / "train_log.jsonl").write_text('{"step": 1}\n{"st')
    with pytest.warns(UserWarning, match=r"seed1: corrupt, train_log\.jsonl"):
        assert alignbench.load_train_log(results).empty


def test_unfinished_runs_are_named_and_skipped(results, begin):
    begin(results, "dpo").release()
    broken = begin(results, "ppo_no_kl")
    broken.log_step(1, {"objective/kl": 0.0})
    broken.fail("loss is not finite")
    with pytest.warns(UserWarning, match="2 skipped") as caught:
        frame = alignbench.load_results(results)
    assert len(frame) == 2
    assert "dpo/.seed0.partial: unfinished" in str(caught[0].message)
    assert "failed: loss is not finite" in str(caught[0].message)


def test_missing_path_beside_a_good_one(results):
    with pytest.warns(UserWarning, match="gone: missing, no such directory"):
        assert len(alignbench.load_results([results, results / "gone"])) == 2


def test_other_folders_in_the_root_are_no_runs(results):
    (results / "figures").mkdir()
    (results / "README.md").write_text("notes")
    runs, skipped = find_runs(results)
    assert (len(runs), skipped) == (2, [])


def test_a_run_without_evaluation_or_reward_model(tmp_path, add_run, begin):
    accuracy = MetricValue("pair_accuracy", None, 0.8, 0.7, 0.9, "higher", 50, 0)
    add_run(tmp_path, "reward_model", {}, whole=[accuracy], kind="reward_model", protocol="reward-model")
    with begin(tmp_path, "bare") as run:
        run.complete(cost=Cost())
    frame = alignbench.load_results(tmp_path).set_index("recipe")
    assert frame.loc["reward_model", "kind"] == "reward_model"
    assert pd.isna(frame.loc["bare", "protocol"])
    assert list(alignbench.load_metrics(tmp_path)["metric"]) == ["pair_accuracy"]
    assert alignbench.load_completions(tmp_path / "reward_model").empty


def test_a_prompt_that_stands_twice_is_corrupt(results):
    path = results / "untrained" / "seed0" / "evaluations" / "trl-detox-v1" / "prompt_values.parquet"
    pd.DataFrame({"prompt_id": ["a", "a"], "kl": [0.1, 0.2]}).to_parquet(path)
    with pytest.raises(ResultsError, match="a prompt id occurs twice"):
        _ = read_run(results / "untrained" / "seed0").evaluations[0].prompt_values
