"""The benchmark on the smallest work: every way does all of it. Its figures are in benchmarks/README.md."""

import importlib.util
import itertools
import json
import math
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
    assert all(line["iters"] == 2 and line["samples_per_s"] > 0 for line in (alone, batched, ours))


def test_completions_that_end_are_as_long_in_every_way(benchmark, monkeypatch, capsys):
    more = ["--end", "0.25", "--prompts", "20", "--samples", "10", "--one-by-one", "100"]
    monkeypatch.setattr(sys, "argv", ["evaluate_throughput.py", *SMALL, *more])
    benchmark.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # An end at about 1 of 4 places leaves about 3 words on average, with a deviation of the root of 12. Between two
    # ways four standard errors of the samples, which are two rounds of so many.
    for line, other in itertools.combinations(lines, 2):
        error = math.sqrt(12 / (2 * line["completions"]) + 12 / (2 * other["completions"]))
        assert abs(line["completion_tokens"] - other["completion_tokens"]) < 4 * error
    assert all(abs(line["completion_tokens"] - 3) < 4 * math.sqrt(12 / (2 * 100)) for line in lines)


def test_ratios_by_hand(benchmark):
    """Two rounds: 3 and 8 seconds for 2 completions, beside 2 and 1 seconds for 4."""
    alone = benchmark.Way(lambda *_: [], lambda _: [], n=2, rounds=[(1.0, 2.0), (6.0, 2.0)], n_tokens=[3.0, 4.0])
    ours = benchmark.Way(lambda *_: [], lambda _: [], n=4, rounds=[(1.5, 0.5), (0.5, 0.5)], n_tokens=[3.0, 3.0])
    work = benchmark.ppo_work.parse(benchmark.parser(), SMALL)
    first, second = benchmark.lines({"one_by_one": alone, "alignbench": ours}, work)
    assert (first["ratio_min"], first["ratio"], first["ratio_max"]) == (3.0, 9.5, 16.0)  # 1.5 : 0.5 and 4 : 0.25
    assert (first["samples_per_s"], first["iter_s"]) == (round(2 / 5.5, 3), 5.5)
    assert first["split_s"] == {"generate": 3.5, "score": 2.0}
    assert (second["ratio"], second["samples_per_s"]) == (1.0, round(4 / 1.5, 3))
