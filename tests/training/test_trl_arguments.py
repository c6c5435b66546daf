"""What TRL trainers are told, and what is done with what they say."""

from types import SimpleNamespace

import pytest

from alignbench.errors import TrainingError
from alignbench.training.settings import TrainerSettings
from alignbench.training.trl_arguments import StepLog, last_checkpoint, trl_arguments


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
    for step, content in ((50, "{}"), (100, ""), (150, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if content is not None:
            (folder / "trainer_state.json").write_text(content)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-50")
    assert last_checkpoint(tmp_path / "none") is None


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
