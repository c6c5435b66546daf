"""The benchmark on the smallest work: every way does all of it. Its figures are in benchmarks/README.md."""

import importlib.util
import json
import shlex
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALL = shlex.split(
    "--layers 2 --hidden 16 --heads 2 --vocab 300 --rlayers 1 --rhidden 16 --rheads 2 --prompts 3 --samples 4 "
    "--new-tokens 12 --one-by-one 5 --iters 2 --warmup 0 --threads 1"
)


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("evaluate_throughput", FOLDER / "evaluate_throughput.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["evaluate_throughput"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["evaluate_throughput"]


def test_every_way_does_the_whole_work(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate_throughput.py", *SMALL])
    benchmark.main()
    alone, batched, ours = map(json.loads, capsys.readouterr().out.splitlines())
    assert [line["peer"] for line in (alone, batched, ours)] == ["one_by_one", "batched", "alignbench"]
    assert [line["completions"] for line in (alone, batched, ours)] == [5, 12, 12]
    assert all(line["completion_tokens"] > 11 for line in (alone, batched, ours))  # special words have no text
    assert ours["ratio"] == 1.0
    assert alone["ratio"] > 1.0
    assert all(line["iters"] == 2 and line["samples_per_s"] > 0 for line in (alone, batched, ours))


def test_completions_that_end_are_as_long_in_every_way(benchmark, monkeypatch, capsys):
    more = ["--end", "0.25", "--prompts", "20", "--samples", "10", "--one-by-one", "100"]
    monkeypatch.setattr(sys, "argv", ["evaluate_throughput.py", *SMALL, *more])
    benchmark.main()
    lengths = [json.loads(line)["completion_tokens"] for line in capsys.readouterr().out.splitlines()]
    assert lengths == pytest.approx([3.0] * 3, abs=1.0)  # an end at 1 of 4 places leaves 3 words on average
    assert lengths == pytest.approx([lengths[2]] * 3, abs=0.8)
