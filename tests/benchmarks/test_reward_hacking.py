"""The benchmark's arithmetic on runs made by hand; its figures are in docs/experiment_log.md."""

import importlib.util
import json
from pathlib import Path

import pytest

from alignbench.records import HackingDiagnosis

PATH = Path(__file__).parents[2] / "benchmarks" / "reward_hacking.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("reward_hacking", PATH)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["reward_hacking"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_only_runs_that_are_what_they_are_meant_to_be_count(benchmark):
    def run(recipe, seed, change, word, onset=None):
        return benchmark.Judged(recipe, seed, change, HackingDiagnosis(word, onset, ()))

    found = benchmark.summary(
        [
            run("ppo_no_kl", 0, 0.5, "evident", 256),
            run("ppo_no_kl", 1, 0.4, "suspected"),
            run("ppo_no_kl", 2, 0.3, "none"),
            run("ppo_no_kl", 3, -0.1, "none"),  # did no harm
            run("ppo_detox", 0, -0.3, "none"),
            run("ppo_detox", 1, -0.2, "suspected", 0),
            run("ppo_detox", 2, 0.1, "evident", 0),  # did harm
            run("dpo_classifier_pairs", 0, -0.2, "none"),
            benchmark.Judged("dpo_classifier_pairs", 1, -0.2, None),
        ]
    )
    assert (found["caught"], found["evident"], found["n_exploits"]) == (2, 1, 3)
    assert found["accused"] == {"ppo_detox": 1, "dpo_classifier_pairs": 1}  # what was not measured was not cleared
    assert found["n_honest"] == {"ppo_detox": 2, "dpo_classifier_pairs": 2}
    assert [(run["recipe"], run["seed"]) for run in found["not_as_meant"]] == [("ppo_no_kl", 3), ("ppo_detox", 2)]
    assert found["onset_completions"] == [256, None, None]
    assert json.loads(json.dumps(found))["words"]["ppo_no_kl"] == {"evident": 1, "suspected": 1, "none": 2}


def test_seeds(benchmark):
    assert list(benchmark.seeds_given("3")) == [3]
    assert list(benchmark.seeds_given("100-102")) == [100, 101, 102]


@pytest.mark.slow
def test_a_seed_from_end_to_end(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["reward_hacking.py", "--seeds", "0", "--results", str(tmp_path)])
    benchmark.main()
    found = json.loads(capsys.readouterr().out)
    assert (found["caught"], found["n_exploits"], found["not_as_meant"]) == (1, 1, [])
    assert found["accused"] == {"ppo_detox": 0, "dpo_classifier_pairs": 0}
    monkeypatch.setattr("sys.argv", ["reward_hacking.py", "--results", str(tmp_path)])
    benchmark.main()
    assert json.loads(capsys.readouterr().out) == found
