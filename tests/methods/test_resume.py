"""Methods on TRL go on from their last checkpoint, to the same numbers bit for bit."""

import dataclasses

import pytest
import torch

from alignbench.errors import TrainingError
from alignbench.methods.base import TrainData
from alignbench.methods.dpo import DPO
from alignbench.methods.reward_model import RewardModel
from alignbench.methods.trl import arguments
from alignbench.models.adapters import Lora

LORA = Lora(r=4, target_modules=("q_proj", "v_proj"))


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(arguments, "CHECKPOINT_EVERY", 5)


class KilledError(Exception):
    """Stands for a process that dies."""


def weights(trained):
    return {name: value.clone() for name, value in trained.model.state_dict().items()}


@pytest.mark.parametrize(
    ("method", "lora"),
    [
        pytest.param(DPO(learning_rate=1e-3, batch_size=1, epochs=2), None, marks=pytest.mark.slow),
        (DPO(learning_rate=1e-3, batch_size=1, epochs=2), LORA),
        (RewardModel(learning_rate=1e-3, batch_size=1, epochs=2), None),
    ],
    ids=["dpo", "dpo_lora", "reward_model"],
)
def test_a_killed_run_goes_on_bit_for_bit(run_context, tiny_policy, pairs, method, lora):
    data = TrainData([], [], pairs)  # 12 pairs, so 24 steps; the last checkpoint before 18 is in the second epoch
    run, straight_log = run_context(lora=lora)
    torch.manual_seed(0)
    straight = method.train(data, run)

    checkpoints = run.checkpoints.parent / "killed"

    def dies_at_18(step, metrics):
        if step == 18:
            raise KilledError

    torch.manual_seed(0)
    killed, _ = run_context(tiny_policy(), lora=lora, checkpoints=checkpoints, log=dies_at_18)
    with pytest.raises(KilledError):
        method.train(data, killed)
    torch.manual_seed(0)
    again, log = run_context(tiny_policy(), lora=lora, checkpoints=checkpoints)
    resumed = method.train(data, again)
    assert min(log) == 16
    assert all(log[step] == straight_log[step] for step in log)
    expected = weights(straight)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    assert again.cost.optimizer_steps == 24


def killed_at_18(run_context, tiny_policy, pairs, method, checkpoints):
    def dies(step, metrics):
        if step == 18:
            raise KilledError

    run, _ = run_context(tiny_policy(), checkpoints=checkpoints, log=dies)
    with pytest.raises(KilledError):
        method.train(TrainData([], [], pairs), run)


@pytest.mark.parametrize("kind", [DPO, RewardModel])
def test_a_killed_run_goes_on_only_as_what_it_was(run_context, tiny_policy, pairs, tmp_path, kind):
    """Not on other pairs, other starting weights, other settings, nor without the optimizer's state."""
    method = kind(learning_rate=1e-3, batch_size=1, epochs=2)
    killed_at_18(run_context, tiny_policy, pairs, method, tmp_path / "killed")

    def go_on(method=method, pairs=pairs, **changes):
        run, log = run_context(tiny_policy(), checkpoints=tmp_path / "killed", **changes)
        method.train(TrainData([], [], pairs), run)
        return log

    def halved(_=None):
        from alignbench.models.loading import load_classifier

        model, tokenizer = load_classifier(tiny_policy().name, where="method.model", labels=["reward"])
        with torch.no_grad():
            model.base_model.get_input_embeddings().weight.mul_(0.5)
        return model, tokenizer

    with pytest.raises(TrainingError, match=r"checkpoint-15: the checkpoint is of pairs .*use --force"):
        go_on(pairs=[*pairs[1:], pairs[0]])
    with pytest.raises(TrainingError, match=r"epochs 2 \(this run: 3\)"):
        go_on(dataclasses.replace(method, epochs=3))
    with pytest.raises(TrainingError, match=r"seed 0 \(this run: 1\)"):
        go_on(seed=1)
    if kind is RewardModel:
        with pytest.raises(TrainingError, match="is of start_weights"):
            go_on(load_reward_model=halved)
    optimizer = tmp_path / "killed" / "checkpoint-15" / "optimizer.pt"
    state = optimizer.read_bytes()
    optimizer.unlink()
    with pytest.raises(TrainingError, match=r"optimizer\.pt is gone or damaged"):
        go_on()
    optimizer.write_bytes(state)
    assert min(go_on()) == 16
