"""Clocks: of the wall and of the device."""

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
