"""Clocks: of the wall and of the device."""

import os
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from alignbench.records import Cost
from alignbench.runtime.clock import measured, set_aside


def busy(seconds):
    started = time.process_time()
    while time.process_time() - started < seconds:
        pass


@pytest.mark.parametrize(("device", "held"), [("cpu", 0.25), ("cuda", 0.75)])
def test_waiting_holds_a_gpu_and_uses_no_cpu(clock, device, held):
    cost = Cost(wall_seconds=10.0, device_seconds=100.0)
    with measured(cost, torch.device(device)):
        clock.wait(0.5)
        clock.work(0.25)
    assert (cost.wall_seconds, cost.device_seconds) == (10.75, 100 + held)
    assert cost.peak_memory_gib > 0


def test_a_part_that_is_set_aside_is_paid_once(clock):
    cost, other = Cost(wall_seconds=10.0), Cost(wall_seconds=1.0)
    with measured(cost, torch.device("cpu")):
        clock.work(1.0)
        with set_aside(cost, other, torch.device("cpu")):
            clock.wait(0.5)
            clock.work(0.25)
        clock.work(2.0)
    assert (cost.wall_seconds, cost.device_seconds) == (13.0, 3.0)
    assert (other.wall_seconds, other.device_seconds) == (1.75, 0.25)


def test_what_ends_in_an_error_is_paid_for_too():
    """By the real clock: whatever else runs, what was worked is the least that is measured."""

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
    """Page faults of the second of two large allocations beside the first's, and resident memory behind the block.

    How many pages that is differs: their size does, and some systems give large ones to whoever asks for much.
    """
    program = """
        import os, resource
        from contextlib import nullcontext
        from alignbench.runtime.allocator import keeping_freed_memory
        def resident(): return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        before = resident()
        with (keeping_freed_memory() if KEEPS else nullcontext()):
            for _ in range(2):
                start = faults()
                bytearray(2**27)
                print(faults() - start)
        print(round(resident() - before))
    """
    program = textwrap.dedent(program).replace("KEEPS", str(keeps))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    first, second, mebibytes = map(int, done.stdout.split())
    assert (second < first / 2) is keeps
    assert mebibytes < 64  # of the 128 that were allocated
