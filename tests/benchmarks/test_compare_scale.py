"""The benchmark on a few small runs: they are real runs, and every command is measured."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from alignbench.comparison.compare import compare

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    spec = importlib.util.spec_from_file_location("compare_scale", ROOT / "benchmarks" / "compare_scale.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "compare_scale", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_what_is_made_can_be_compared_and_measured(benchmark, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "runs"
    benchmark.make(folder, argparse.Namespace(recipes=2, seeds=2, prompts=30, samples=2))
    found = compare(folder)
    assert [(row.recipe, row.seeds) for row in found.recipes] == [("base", (0, 1)), ("ppo_detox_001", (0, 1))]
    assert (found.skipped, found.mismatches, found.n_prompts, found.samples_per_prompt) == ((), (), 30, 2)
    assert len(found.recipes[1].metrics) == 32
    assert all(one.difference.value is not None for one in found.recipes[1].metrics.values())
    monkeypatch.setattr(sys, "argv", ["compare_scale.py", str(folder), "--all-pairs"])
    benchmark.main()
    [line] = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["command"], line["runs"]) == ("compare --format table --all-pairs", 4)
    assert line["wall_s"] > 0
    assert line["peak_mb"] > 0


def test_bars_are_measured_each_on_its_own_runs(benchmark, tmp_path, monkeypatch, capsys):
    found = {"wall_s": 2.0, "cpu_s": 3.0, "peak_mb": 300, "printed": "0"}
    made, asked = [], []
    monkeypatch.setattr(benchmark, "require_runs", lambda folder, work: made.append((work.recipes, work.seeds)) or 7)
    monkeypatch.setattr(benchmark, "measured", lambda arguments, _: asked.append(arguments) or dict(found))
    monkeypatch.setattr(benchmark, "BARS", (((2, 5), "compare --all-pairs", 2.5), ((3, 4), "ls", 1.5)))
    monkeypatch.setattr(sys, "argv", ["compare_scale.py", str(tmp_path), "--bars"])
    benchmark.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["command"], line["runs"], line["met"]) for line in lines] == [
        ("compare --all-pairs", 7, True),
        ("ls", 7, False),
    ]
    assert made == [(2, 5), (3, 4)]
    assert asked == [["compare", "--all-pairs", str(tmp_path / "2x5")], ["ls", str(tmp_path / "3x4")]]
