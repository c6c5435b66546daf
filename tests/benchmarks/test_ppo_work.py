"""The work that is measured: its products are counted alike in two ways."""

import importlib.util
from pathlib import Path

import pytest

FLOP = {"forward": 2, "frozen": 4, "trained": 6}


@pytest.mark.parametrize(
    "arguments", [[], ["--shape", "125m", "--ppo-epochs", "1"], ["--lora-rank", "8", "--batch", "32"]]
)
def test_products_are_those_of_the_sum(arguments):
    spec = importlib.util.spec_from_file_location("ppo_work", Path(__file__).parents[2] / "benchmarks" / "ppo_work.py")
    ppo_work = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ppo_work)
    work = ppo_work.parse(ppo_work.parser(""), [*arguments, "--threads", "1"])
    found = sum(n * rows * n_in * n_out * FLOP[use] for n, rows, n_in, n_out, use in ppo_work.products(work))
    assert found / 1e9 == pytest.approx(ppo_work.matmul_gflop(work))
