"""What TRL trainers are told, and what is done with what they say."""

from types import SimpleNamespace

import pytest

from alignbench.errors import TrainingError
from alignbench.methods.trl.arguments import StepLog, trl_arguments
from alignbench.methods.trl.checkpoints import VOUCHER, Vouching, last_checkpoint
from alignbench.methods.trl.settings import TrainerSettings


def test_every_argument_is_one_that_trl_knows(tmp_path):
    import trl

    settings = TrainerSettings(learning_rate=1e-4, batch_size=8, micro_batch_size=2)
    shared = trl_arguments(settings, tmp_path, seed=3, on_cpu=True)
    for config in (trl.DPOConfig(**shared), trl.RewardConfig(**shared)):
        assert config.gradient_accumulation_steps == 4
        assert config.per_device_train_batch_size == 2
        assert (config.seed, config.data_seed) == (3, 3)
        assert config.report_to == []
        assert not config.bf16
        assert config.disable_dropout


def test_a_loss_that_is_not_finite_stops(tmp_path):
    log = StepLog("x", {"loss": "policy/loss"}, lambda *_: None)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 7: lower method\.learning_rate"):
        log.on_log(None, SimpleNamespace(global_step=7), None, {"loss": float("nan")})


def test_only_known_keys_are_logged_under_our_names():
    rows = {}
    log = StepLog("x", {"loss": "policy/loss"}, rows.__setitem__)
    log.on_log(None, SimpleNamespace(global_step=1), None, {"loss": 0.5, "epoch": 1.0})
    log.on_log(None, SimpleNamespace(global_step=2), None, {"train_runtime": 3.0})
    assert rows == {1: {"policy/loss": 0.5}}


def test_the_first_loss_is_checked_and_no_other():
    seen = []
    log = StepLog("x", {}, lambda *_: None, seen.append)
    for step in (1, 2):
        log.on_log(None, SimpleNamespace(global_step=step), None, {"loss": float(step)})
    assert seen == [{"loss": 1.0}]


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


def test_the_checkpoint_before_goes_when_the_next_is_vouched_for(tmp_path):
    checkpoint(tmp_path, 50, {})
    checkpoint(tmp_path, 100, {})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-100"]


def test_weights_that_are_not_finite_are_not_saved():
    import torch

    log = StepLog("x", {}, lambda *_: None)
    model = torch.nn.Linear(2, 2)
    state, control = SimpleNamespace(global_step=9, max_steps=9), SimpleNamespace(should_save=True)
    log.on_step_end(None, state, control, model=model)
    with torch.no_grad():
        model.weight[0, 0] = float("inf")
    with pytest.raises(TrainingError, match="not finite at step 9"):
        log.on_step_end(None, state, control, model=model)
