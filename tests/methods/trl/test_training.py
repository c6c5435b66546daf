"""What a TRL trainer says of its steps, and what is done with it."""

from types import SimpleNamespace

import pytest

from alignbench.errors import TrainingError
from alignbench.methods.trl.training import Steps


def test_a_loss_that_is_not_finite_stops(tmp_path):
    steps = Steps("x", {"loss": "policy/loss"}, lambda *_: None)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 7: lower method\.learning_rate"):
        steps.on_log(None, SimpleNamespace(global_step=7), None, {"loss": float("nan")})


def test_only_known_keys_are_logged_under_our_names():
    rows = {}
    steps = Steps(
        "x",
        {"loss": "policy/loss"},
        lambda step, *told: rows.__setitem__(step, told),
    )
    steps.on_log(None, SimpleNamespace(global_step=1, max_steps=2), None, {"loss": 0.5, "epoch": 1.0}, model="m")
    steps.on_log(None, SimpleNamespace(global_step=2), None, {"train_runtime": 3.0})
    assert rows == {1: (2, {"policy/loss": 0.5}, "m")}


def test_the_first_loss_is_checked_and_no_other():
    seen = []
    steps = Steps("x", {}, lambda *_: None, seen.append)
    for step in (1, 2):
        steps.on_log(None, SimpleNamespace(global_step=step, max_steps=2), None, {"loss": float(step)}, model=None)
    assert seen == [{"loss": 1.0}]


def test_weights_that_are_not_finite_are_not_saved():
    import torch

    steps = Steps("x", {}, lambda *_: None)
    model = torch.nn.Linear(2, 2)
    state, control = SimpleNamespace(global_step=9, max_steps=9), SimpleNamespace(should_save=True)
    steps.on_step_end(None, state, control, model=model)
    with torch.no_grad():
        model.weight[0, 0] = float("inf")
    with pytest.raises(TrainingError, match="not finite at step 9"):
        steps.on_step_end(None, state, control, model=model)
