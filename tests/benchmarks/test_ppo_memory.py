"""The memory benchmark on a very small model: a row that runs, one that cannot, one that fails."""

from __future__ import annotations

import importlib.util
import resource
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALL = (
    *("--layers", "2", "--hidden", "32", "--heads", "2", "--vocab", "200", "--batch", "4", "--mini-batch", "2"),
    *("--rlayers", "1", "--rhidden", "32", "--rheads", "2", "--new-tokens", "4", "--iters", "1", "--ppo-epochs", "1"),
)


@pytest.fixture(scope="module")
def memory():
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("ppo_memory", FOLDER / "ppo_memory.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["ppo_memory"] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))
    for name in ("ppo_memory", "ppo_work"):
        del sys.modules[name]


PROGRAM = """
import argparse, json
parser = argparse.ArgumentParser()
parser.add_argument("--layers", type=int)
given, _ = parser.parse_known_args()
print("what a library says")
print(json.dumps({"peak_rss_mb": given.layers}))
"""


@pytest.fixture
def in_place_of_itself(memory, tmp_path, monkeypatch):
    """Has rows measured by a program that starts at once, for it loads no library."""
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setattr(memory, "__file__", str(tmp_path / "program.py"))


def test_what_a_process_of_its_own_says(memory, in_place_of_itself, tmp_path):
    """With `test_a_row_is_measured_in_a_process_of_its_own`, which loads all that a row needs, three times."""
    assert memory.in_own_process("full", [*SMALL], tmp_path) == {"row": "full", "peak_rss_mb": 2}
    failed = memory.in_own_process("full", [*SMALL, "--layers", "few"], tmp_path)
    assert "argument --layers: invalid int value: 'few'" in failed["not_measured"]


@pytest.mark.slow
def test_a_row_is_measured_in_a_process_of_its_own(memory, tmp_path):
    """Its peak, of training alone, is at most what the system says was the most in any child of this process."""
    found = memory.in_own_process("full, gradient checkpointing", [*SMALL], tmp_path)
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    assert resident_with_torch() < found["peak_rss_mb"] <= most + 1
    assert found["iter_s"] > 0
    failed = memory.in_own_process("full", [*SMALL, "--layers", "few"], tmp_path)
    assert "argument --layers: invalid int value: 'few'" in failed["not_measured"]


def resident_with_torch():
    """MiB that are resident in a process that has loaded torch and nothing else."""
    code = (
        "import os, torch; print(int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20)"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_what_cannot_be_measured_says_why(memory, tmp_path, monkeypatch):
    work = memory.ppo_work.parse(memory.arguments(), [*SMALL, "--mini-batch", "3"])
    with pytest.raises(ValueError, match="mini_batch_size 3 must divide batch_size 4"):
        memory.measure(work, memory.ROWS["full"])
    monkeypatch.setattr(memory, "find_spec", lambda name: None)
    missing = memory.in_own_process("LoRA, base in 4 bits", [*SMALL], tmp_path)
    assert missing["not_measured"] == "bitsandbytes is not installed"
    table = memory.table([{"row": "x", "peak_rss_mb": 10, "peak_cuda_mb": None, "iter_s": 1.0}, missing])
    assert table.splitlines()[2:] == [
        "| x | 10 | - | 1.00 |",
        "| LoRA, base in 4 bits | not measured: bitsandbytes is not installed | | |",
    ]
