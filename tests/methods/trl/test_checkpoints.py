"""Checkpoints of TRL's trainers: whole, and of this training."""

import json
from types import SimpleNamespace

import pytest

from alignbench.errors import TrainingError
from alignbench.methods.trl.checkpoints import VOUCHER, Vouching, last_checkpoint
from alignbench.models.fast import layers


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    """One without a voucher, or with a torn one."""
    checkpoint(tmp_path, 50, {"seed": 1})
    for step, voucher in ((100, ""), (150, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        if voucher is not None:
            (folder / VOUCHER).write_text(voucher)
    assert last_checkpoint(tmp_path, {"seed": 1}) == str(tmp_path / "checkpoint-50")
    assert last_checkpoint(tmp_path / "none", {"seed": 1}) is None


def checkpoint(directory, step, identity):
    """What the trainer writes at a step, vouched for."""
    folder = directory / f"checkpoint-{step}"
    folder.mkdir()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        (folder / name).write_text(f"{name} at {step}")
    Vouching(identity).on_save(SimpleNamespace(output_dir=str(directory)), SimpleNamespace(global_step=step), None)
    return folder


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_a_checkpoint_that_lost_a_file_is_refused(tmp_path, name):
    folder = checkpoint(tmp_path, 50, {"seed": 1})
    content = (folder / name).read_text()
    (folder / name).unlink()
    with pytest.raises(TrainingError, match=rf"{name} is gone or damaged; use --force"):
        last_checkpoint(tmp_path, {"seed": 1})
    (folder / name).write_text(content.upper())  # of the same size
    with pytest.raises(TrainingError, match=rf"{name} is gone or damaged"):
        last_checkpoint(tmp_path, {"seed": 1})


def test_a_checkpoint_of_another_training_is_refused_by_what_differs(tmp_path):
    checkpoint(tmp_path, 50, {"seed": 1, "pairs": "a"})
    with pytest.raises(
        TrainingError, match=r"checkpoint-50: the checkpoint is of pairs a \(this run: b\); use --force"
    ):
        last_checkpoint(tmp_path, {"seed": 1, "pairs": "b"})


def test_training_goes_on_with_the_kernels_of_the_checkpoint(tmp_path, take_kernel):
    take_kernel("weight_first")
    folder = checkpoint(tmp_path, 50, {})
    take_kernel("linear")
    last_checkpoint(tmp_path, {})
    assert layers.choice.kernel_for(16, 768, 768, "forward") == "weight_first"
    take_kernel("linear")
    voucher = folder / VOUCHER
    voucher.write_text(
        json.dumps({key: value for key, value in json.loads(voucher.read_text()).items() if key != "kernels"})
    )
    last_checkpoint(tmp_path, {})  # of a version without a choice
    assert layers.choice.kernel_for(16, 768, 768, "forward") == "linear"


def test_the_checkpoint_before_goes_when_the_next_is_vouched_for(tmp_path):
    checkpoint(tmp_path, 50, {})
    checkpoint(tmp_path, 100, {})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-100"]
