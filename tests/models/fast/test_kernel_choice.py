"""The kernel of a product: the fastest one here, the same in every process, and that of the checkpoint when resumed."""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from filelock import FileLock

from alignbench.errors import UsageError
from alignbench.models.fast import kernel_choice, layers
from alignbench.models.fast.kernel_choice import (
    KERNELS,
    VARIABLE,
    KernelChoice,
    Product,
    fastest,
    from_rounds,
    measured,
)

PRODUCT = (16, 768, 3072, "forward")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(VARIABLE)


@pytest.fixture
def times(monkeypatch):
    """What is measured, by kernel, and the products that it was asked for."""
    times = {"linear": 2.0, "weight_first": 1.0, "onednn": 3.0}
    asked = []
    monkeypatch.setattr(kernel_choice, "measured", lambda product, trial: asked.append(product) or dict(times))
    return times, asked


def choice():
    return KernelChoice(trial=None)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"linear": 1.0, "weight_first": 1.2, "onednn": 0.5}, "onednn"),
        ({"linear": 1.0, "weight_first": 0.4, "onednn": 0.5}, "weight_first"),
        ({"linear": 1.0, "weight_first": 0.96, "onednn": 1.5}, "linear"),  # a tie, but for noise
        ({"linear": 1.0}, "linear"),
        ({}, "linear"),
    ],
)
def test_fastest(seconds, expected):
    assert fastest(seconds) == expected


def test_rounds_by_hand():
    """A round in which the machine was busy, and one lucky measurement, decide nothing."""
    rounds = {"linear": [2.0, 20.0, 4.0], "onednn": [3.0, 30.0, 1.0], "weight_first": [1.0, 10.0, 100.0]}
    assert from_rounds(rounds) == {"linear": 2.0, "onednn": 3.0, "weight_first": 1.0}


@pytest.mark.parametrize(
    ("rows", "stands_for"),
    [(1, 1), (7, 8), (9, 16), (16, 16), (17, 24), (50, 56), (64, 64), (90, 64), (91, 128), (704, 512)],
)
def test_rows_are_rounded(times, rows, stands_for):
    choice().kernel_for(rows, 768, 3072, "forward")
    assert times[1] == [(stands_for, 768, 3072, "forward")]


def test_a_large_product_is_timed_by_a_smaller_one():
    assert Product(128, 768, 50257, "trained").example == (128, 768, 256, "trained")
    assert Product(128, 768, 50257, "forward").example == (128, 768, 256, "forward")
    assert Product(16, 3072, 768, "forward").example == (16, 3072, 508, "forward")
    assert Product(16, 768, 50257, "forward").example == (16, 768, 43690, "forward")  # as it comes from memory
    assert Product(16, 768, 768, "forward").example == (16, 768, 768, "forward")
    assert Product(16, 768, 768, "trained").gflop_per_s(1e-3) == pytest.approx(3 * 2 * 16 * 768**2 / 1e6)


def test_what_was_measured_holds_for_every_process(times):
    seconds, asked = times
    assert choice().kernel_for(*PRODUCT) == "weight_first"
    seconds["onednn"] = 0.1
    assert choice().kernel_for(*PRODUCT) == "weight_first"
    assert len(asked) == 1
    assert choice().kernel_for(16, 768, 3072, "trained") == "onednn"  # another class


def test_of_two_processes_one_measures(monkeypatch):
    outcomes = iter([{"linear": 2.0, "onednn": 1.0}, {"linear": 1.0, "onednn": 2.0}])

    def slowly(product, trial):
        time.sleep(0.05)
        return next(outcomes)

    monkeypatch.setattr(kernel_choice, "measured", slowly)
    with ThreadPoolExecutor(2) as both:
        assert list(both.map(lambda _: choice().kernel_for(*PRODUCT), range(2))) == ["onednn"] * 2


OF_PRODUCT = '{"seconds": {"16 x 768 x 3072 forward": %s}}'


@pytest.mark.parametrize(
    "content",
    [
        *("", "{}", '{"seconds": 1}', '{"seconds": {"16 x 768'),
        *(OF_PRODUCT % x for x in ("null", "[1]", '{"linear": "x"}')),
    ],
)
def test_a_torn_file_is_measured_anew(times, tmp_path, content):
    choice().kernel_for(*PRODUCT)
    (path,) = (tmp_path / "cache" / "kernels").glob("*.json")
    path.write_text(content)
    assert choice().kernel_for(*PRODUCT) == "weight_first"
    assert len(times[1]) == 2
    assert json.loads(path.read_text())["seconds"] == {"16 x 768 x 3072 forward": times[0]}


def test_threads_are_measured_apart(times, tmp_path, monkeypatch):
    choice().kernel_for(*PRODUCT)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    choice().kernel_for(*PRODUCT)
    assert len(times[1]) == 2


def test_what_cannot_be_kept_is_not_measured(times, tmp_path, monkeypatch, caplog):
    """The next process would find another outcome, and other numbers."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path / "file"))
    assert choice().kernel_for(*PRODUCT) == "linear"
    assert times[1] == []
    assert "set ALIGNBENCH_CACHE to a folder that can be written, or ALIGNBENCH_KERNELS" in caplog.text


def test_a_file_system_without_locks_keeps_nothing(times, monkeypatch, caplog):
    def refuse(*_):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "_acquire", refuse)
    assert choice().kernel_for(*PRODUCT) == "linear"
    assert times[1] == []
    assert "does not appear to support flock" in caplog.text


@pytest.mark.parametrize("kernel", KERNELS)
def test_forced(times, monkeypatch, kernel):
    monkeypatch.setenv(VARIABLE, kernel)
    forced = choice()
    assert forced.kernel_for(*PRODUCT) == kernel
    assert times[1] == []
    assert forced.report().splitlines()[1].split() == ["16", "x", "768", "x", "3072", "forward", kernel, VARIABLE]


@pytest.mark.parametrize(
    "value", ["mkl", "{", '{"all": 1}', '{"all": null, "products": []}', '{"all": "mkl", "products": {}}']
)
def test_a_wrong_name(monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    expected = f"{VARIABLE}: got {value!r}, expected one of linear, weight_first, onednn, measured"
    with pytest.raises(UsageError, match=re.escape(expected)):
        choice().begin()


def test_onednn_where_there_is_none(monkeypatch):
    monkeypatch.setenv(VARIABLE, "onednn")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(UsageError, match="built without oneDNN; use 'linear'"):
        choice().begin()


def test_a_checkpoint_of_a_machine_with_onednn_goes_on_without(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setenv(VARIABLE, "")  # what `adopt` puts there goes with the test
    resumed = choice()
    resumed.adopt({"all": "onednn", "products": {"16 x 768 x 3072 forward": "onednn"}})
    assert resumed.kernel_for(*PRODUCT) == resumed.kernel_for(16, 768, 768, "forward") == "linear"


def test_a_checkpoints_kernels_are_kept(times, monkeypatch):
    """Against what is fastest here and what is forced; by processes that are started then, until the next run."""
    before = choice()
    before.kernel_for(*PRODUCT)
    state = json.loads(json.dumps(before.state()))
    times[0]["onednn"] = 0.1
    monkeypatch.setenv(VARIABLE, "linear")
    resumed = choice()
    resumed.begin()
    resumed.adopt(state)
    started = choice()  # it finds what `resumed` has left in the environment
    for one in (resumed, started):
        assert one.kernel_for(*PRODUCT) == "weight_first"
        assert one.kernel_for(16, 768, 768, "forward") == "onednn"  # the checkpoint had not met it: the fastest here
    assert "16 x 768 x 3072 forward" in resumed.state()["products"]
    assert "as in the checkpoint" in resumed.report()
    resumed.begin()
    assert os.environ[VARIABLE] == "linear"
    assert resumed.kernel_for(*PRODUCT) == "linear"


def test_a_checkpoint_of_before(times, monkeypatch):
    monkeypatch.setenv(VARIABLE, "onednn")
    resumed = choice()
    resumed.adopt(None)
    assert resumed.kernel_for(*PRODUCT) == "onednn"


def test_measuring_disturbs_nothing():
    """Neither draws nor hooks nor modes of whoever needs the product."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        packed = []
        hooks = torch.autograd.graph.saved_tensors_hooks(packed.append, lambda one: one)
        for use in ("forward", "frozen", "trained"):
            with mode(), hooks, torch.autocast("cpu", torch.bfloat16):
                found = measured(Product(4, 8, 16, use), layers.trial)
            assert found["linear"] > 0
            assert ("weight_first" in found) == (use == "forward")
        assert packed == []
    assert torch.equal(torch.get_rng_state(), before)


def test_the_report_says_why(times):
    one = choice()
    assert "none large enough" in one.report()
    gflop = 2 * 16 * 768 * 2034 / 1e9
    times[0].update(linear=gflop / 50, weight_first=gflop / 75, onednn=gflop / 25)
    one.kernel_for(*PRODUCT)
    assert one.report().splitlines()[1].endswith("weight_first   GFLOP/s: linear 50, weight_first 75, onednn 25")
