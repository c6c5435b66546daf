"""Files of a run: their keys are pinned, and those of earlier releases are read as what they say today."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from alignbench.comparison.compare import compare
from alignbench.records import AnswerCost, Cost, HackingDiagnosis, MetricValue
from alignbench.results.files import write_record
from alignbench.results.reader import find_runs
from alignbench.results.schema import (
    EvaluationFile,
    PromptsFile,
    RunStatus,
    StoredMetric,
    Trial,
    TuningFile,
    UnreadableError,
    Upstream,
    read_record,
    upgrade,
)
from alignbench.runtime.device import describe_environment
from datasets_prep.prepared import PromptRows

RECORDED = Path(__file__).parents[1] / "golden" / "results" / "v1_november"
COST = [
    *("wall_seconds", "peak_memory_gib", "training_completions", "generated_tokens", "reward_calls"),
    *("optimizer_steps", "trainable_parameters", "prompts_seen", "trained_tokens", "generation_flops"),
    *("forward_flops", "backward_flops", "device_seconds", "judge_tokens", "money"),
]
KEYS = {
    "status.json": [
        *("schema_version", "alignbench", "state", "kind", "recipe", "method", "seed", "run_hash", "resolved"),
        *(
            "inputs",
            "files",
            "upstream",
            "cost",
            "upstream_cost",
            "upstream_pieces",
            "evaluation_cost",
            "train_reward",
            "trained_on",
        ),
        *("reward_hacking", "reward_hacking_reason", "error", "started", "finished"),
    ],
    "resolved": ["sha256", "settings"],
    "upstream": ["recipe", "seed", "run_hash", "role"],
    "cost": COST,
    "upstream_cost": COST,
    "evaluation_cost": COST,
    "upstream_pieces": COST,
    "reward_hacking": ["word", "onset_completions", "evidence"],
    "metrics.json": [
        *("schema_version", "protocol", "step", "completions", "n_prompts", "samples_per_prompt", "prompt_rows"),
        *("comparability", "scorer_sources", "metrics", "prompt_groups", "answer_cost", "traits", "measurement"),
    ],
    "metrics": [
        *("metric", "scorer", "value", "ci_low", "ci_high", "direction", "n_scored", "n_unscored", "reason"),
        *("replicates", "group_sizes", "n_cut"),
    ],
    "prompt_rows": ["n_rows", "left_out", "longest_prompt"],
    "answer_cost": ["generated_tokens", "flops", "reward_calls"],
    "prompts.json": ["schema_version", "seen", "heldout", "statistics", "text_form"],
    "tuning.json": [
        *("schema_version", "suite", "recipe", "identity", "criterion", "direction", "n_points", "trials"),
        *("selected", "pieces"),
    ],
    "trials": ["recipe", "seed", "run_hash", "settings", "value", "reason", "measured"],
    "pieces": COST,
}
FIRST_RELEASE = {
    "status.json": (
        *("alignbench", "state", "kind", "recipe", "method", "seed", "run_hash", "upstream", "cost"),
        *("upstream_cost", "evaluation_cost", "train_reward", "error", "started", "finished"),
    ),
    "metrics.json": ("protocol", "n_prompts", "samples_per_prompt", "comparability", "metrics"),
    "prompts.json": ("seen", "heldout"),
}
"""What every release has written."""
COLUMNS = ("prompt_values", "completions", "divergence")
FIRST_COST = COST[:7]
FIRST_METRIC = KEYS["metrics"][:10]
KINDS = {"status.json": RunStatus, "metrics.json": EvaluationFile, "prompts.json": PromptsFile}


def content(path):
    return json.loads(path.read_text(encoding="utf-8"))


def recorded(name):
    """The recorded files of a name; one metrics.json is cut off on purpose."""
    return [path for path in sorted(RECORDED.rglob(name)) if (path.name, path.parts[-4]) != ("metrics.json", "seed2")]


@pytest.fixture
def written(tmp_path, begin, report):
    """A run with something under every key, and its evaluation as it was given to the writer."""
    measured = report({"kl": [0.1] * 12, "toxicity_mean@judge": [0.5] * 12})
    divergence = measured.completions[["prompt_id", "completion"]]
    measured = replace(measured, divergence=divergence, answer_cost=AnswerCost(34.0, 2e6))
    about = {"recipe": "rm", "seed": 0, "run_hash": "h"}
    with begin(tmp_path, upstream=[Upstream(**about, role="reward")]) as run:
        run.write_prompts(["a"], {"b": "p1"})
        run.charge({"run h": Cost(reward_calls=1)})
        run.write_evaluation(measured, {}, prompt_rows=PromptRows(12, {"repeated": 1}, 60))
        path = run.complete(cost=Cost(), reward_hacking=HackingDiagnosis("none", None, ("said",)))
    trial = Trial(**about, settings={}, value=0.5)
    about = {"suite": "s", "recipe": "ppo", "identity": "i", "criterion": {}, "direction": "lower", "n_points": 1}
    tuning = TuningFile(**about, trials=(trial,), selected=0, pieces={"run h": Cost()})
    write_record(path / "tuning.json", tuning)
    return path, measured


def test_keys_of_every_file(written):
    path, _ = written
    found = {}
    for name in ("status.json", "metrics.json", "prompts.json", "tuning.json"):
        [file] = path.rglob(name)
        found[name] = content(file)
        for key in KEYS.keys() & found[name].keys():
            part = found[name][key]
            part = part["run h"] if "pieces" in key else part
            found[key] = part[0] if isinstance(part, list) else part
    assert {name: list(part) for name, part in found.items()} == KEYS
    assert found["answer_cost"] == {"generated_tokens": 34.0, "flops": 2e6, "reward_calls": 0.0}
    assert found["prompt_rows"] == {"n_rows": 12, "left_out": {"repeated": 1}, "longest_prompt": 60}
    assert found["reward_hacking"] == {"word": "none", "onset_completions": None, "evidence": ["said"]}


def test_columns_are_those_of_the_evaluator(written):
    """Which these are is pinned in tests/evaluation/test_evaluator.py."""
    path, measured = written
    columns = {name: pq.ParquetFile(*path.rglob(f"{name}.parquet")).schema_arrow.names for name in COLUMNS}
    assert columns == {
        "prompt_values": ["prompt_id", *measured.prompt_values.columns],
        "completions": list(measured.completions.columns),
        "divergence": list(measured.divergence.columns),
    }


def test_keys_of_what_a_run_says_of_its_machine():
    assert list(describe_environment(torch.device("cpu"))) == [
        *("python", "platform", "packages", "hardware_class", "n_cpus", "n_threads", "n_processes"),
    ]


def test_a_metric_is_stored_whole():
    metric = MetricValue("kl", None, 0.1, 0.0, 0.2, "none", 9, 1, "why", (0.1, None), (5, 4), 3)
    stored = StoredMetric.of(metric)
    assert stored.model_dump() == asdict(metric)
    assert list(asdict(metric)) == KEYS["metrics"]


@pytest.mark.parametrize("name", KINDS)
def test_recorded_files_are_read_as_they_are(name):
    """Nothing that a file says is changed; keys that came later are filled in, once."""
    assert len(recorded(name)) >= 6
    for path in recorded(name):
        old = content(path)
        new = upgrade(old)
        assert list(read_record(path, KINDS[name]).model_dump()) == KEYS[name]
        assert set(new) == set(KEYS[name])
        assert part_of(new, old) == old
        assert upgrade(new) == new


def part_of(new, old):
    """Of a new content what has a place in an old one: costs have keys that came later."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {key: part_of(new[key], value) for key, value in old.items()}
    return new


def first_release(old, name):
    """The file as the first release would have written it."""
    new = {key: value for key, value in old.items() if key in ("schema_version", *FIRST_RELEASE[name])}
    for key in new.keys() & {"cost", "upstream_cost", "evaluation_cost"}:
        new[key] = {field: new[key][field] for field in FIRST_COST}
    if "metrics" in new:
        new["metrics"] = [{key: one[key] for key in FIRST_METRIC} for one in new["metrics"]]
    return new


LATER = {
    "status.json": {
        **{"inputs": {}, "files": None, "upstream_pieces": {}, "trained_on": ()},
        **{"reward_hacking": None, "reward_hacking_reason": None},
    },
    "metrics.json": {
        **{"step": None, "completions": None, "prompt_rows": None, "scorer_sources": {}, "prompt_groups": {}},
        **{"answer_cost": None},
    },
    "prompts.json": {"statistics": {}, "text_form": 1},
}


@pytest.mark.parametrize("name", KINDS)
def test_files_of_the_first_release(name, tmp_path):
    path = tmp_path / name
    for whole in recorded(name):
        old = first_release(content(whole), name)
        path.write_text(json.dumps(old))
        record, today = (read_record(file, KINDS[name]) for file in (path, whole))
        for key, absent in LATER[name].items():
            assert getattr(record, key) == absent
        for key in FIRST_RELEASE[name]:
            if not key.endswith("cost") and key != "metrics":
                assert getattr(record, key) == getattr(today, key)
        for key in FIRST_RELEASE[name]:
            if key.endswith("cost"):
                later = dict.fromkeys(COST[7:], 0)
                assert getattr(record, key) == replace(getattr(today, key), **later)
        if name == "metrics.json":
            assert {(one.group_sizes, one.n_cut) for one in record.metrics} == {(None, 0)}
            assert [one.value for one in record.metrics] == [one.value for one in today.metrics]


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in LATER.items() for key in keys])
def test_each_key_that_came_later_may_be_missing(name, key, tmp_path):
    path = tmp_path / name
    old = upgrade(content(recorded(name)[-1]))
    del old[key]
    path.write_text(json.dumps(old))
    assert getattr(read_record(path, KINDS[name]), key) == LATER[name][key]


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in FIRST_RELEASE.items() for key in keys])
def test_what_every_release_has_written_is_damage_where_it_is_missing(name, key, tmp_path):
    path = tmp_path / name
    old = content(recorded(name)[-1])
    del old[key]
    path.write_text(json.dumps(old))
    with pytest.raises(UnreadableError, match=rf"{name}: {key}: Field required"):
        read_record(path, KINDS[name])


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("status.json", {"cost": {"wall_seconds": 1.0}}, "cost: Value error, lacks generated_tokens, optimizer_steps"),
        ("status.json", {"cost": 3}, "cost: "),
        ("status.json", {"upstream_pieces": [1]}, "cannot be read: AttributeError"),
        ("status.json", {"reward_hacking": {"word": "none"}}, "reward_hacking.onset_completions: Field required"),
        ("status.json", {"charges": 3}, "cannot be read"),
        ("metrics.json", {"metrics": 3}, "cannot be read: TypeError"),
        ("metrics.json", {"metrics": [{"metric": "kl"}]}, "metrics.0.scorer: Field required"),
        ("metrics.json", {"metrics": ["kl"]}, "metrics.0: "),
    ],
)
def test_parts_that_no_release_has_written_are_damage(name, change, said, tmp_path):
    path = tmp_path / name
    path.write_text(json.dumps(content(recorded(name)[-1]) | change))
    with pytest.raises(UnreadableError, match=said):
        read_record(path, KINDS[name])


def test_pieces_were_first_called_charges_and_named_by_labels():
    cost = {"wall_seconds": 1.0}
    old = {"state": "complete", "upstream": [{"recipe": "rm", "seed": 1, "run_hash": "h", "role": "reward"}]}
    new = upgrade(old | {"charges": {"rm/seed1": cost, "pairs-abc": cost}})
    assert list(new["upstream_pieces"]) == ["run h", "pairs abc"]
    assert new["upstream_pieces"]["run h"]["device_seconds"] == 0
    trials = [{"recipe": "dpo.trial0", "seed": 0, "run_hash": "t"}]
    assert list(upgrade({"trials": trials, "charges": {"dpo.trial0/seed0": cost}})["pieces"]) == ["run t"]


def test_results_of_the_first_release_are_compared(tmp_path):
    """The same numbers and tests; of what was not written then, nothing is said."""
    old = tmp_path / "old"
    shutil.copytree(RECORDED, old)
    for name in KINDS:
        for path in old.rglob(name):
            with suppress(json.JSONDecodeError):  # the one that is cut off
                path.write_text(json.dumps(first_release(content(path), name)))
    ours, theirs = (
        [
            {key: value for key, value in record.items() if not key.startswith(("reward_hacking", "skipped"))}
            for record in compare(folder).records()
            if record["metric"] not in (*COST, "neutral_perplexity")  # of its groups the sizes are missing
        ]
        for folder in (RECORDED, old)
    )
    assert ours == theirs
    assert len(find_runs(old)[0]) == len(find_runs(RECORDED)[0])
