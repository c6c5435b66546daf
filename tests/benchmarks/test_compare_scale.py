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
