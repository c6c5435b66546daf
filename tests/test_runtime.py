"""Clocks: of the wall and of the device."""

import os
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from alignbench.records import Cost
from alignbench.runtime import measured


def busy(seconds):
    started = time.process_time()
    while time.process_time() - started < seconds:
        pass


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_waiting_holds_a_gpu_and_uses_no_cpu(device):
    cost = Cost(wall_seconds=10.0, device_seconds=100.0)
    with measured(cost, torch.device(device)):
        time.sleep(0.3)
        busy(0.1)
    wall, held = cost.wall_seconds - 10, cost.device_seconds - 100
    assert wall >= 0.4
    if device == "cuda":
        assert held == pytest.approx(wall, abs=0.05)
    else:
        assert 0.1 <= held < wall - 0.2
    assert cost.peak_memory_gib > 0


def test_what_ends_in_an_error_is_paid_for_too():
    def fails():
        busy(0.05)
        raise RuntimeError

    cost = Cost()
    with pytest.raises(RuntimeError), measured(cost, torch.device("cpu")):
        fails()
    assert cost.device_seconds >= 0.05


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone keeps freed memory")
@pytest.mark.parametrize("keeps", [True, False])
def test_freed_memory_is_kept_within_the_block_and_given_back_behind_it(keeps):
    """Page faults of the second of two large allocations, and resident memory behind the block."""
    program = """
        import os, resource
        from contextlib import nullcontext
        from alignbench.runtime import keeping_freed_memory
        def resident(): return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        before = resident()
        with (keeping_freed_memory() if KEEPS else nullcontext()):
            bytearray(2**27)
            start = faults()
            bytearray(2**27)
            print(faults() - start)
        print(round(resident() - before))
    """
    program = textwrap.dedent(program).replace("KEEPS", str(keeps))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    n_faults, mebibytes = map(int, done.stdout.split())
    assert (n_faults < 16_384) is keeps  # 128 MiB are 32,768 pages
    assert mebibytes < 64
