"""Methods on TRL go on from their last checkpoint, to the same numbers bit for bit."""

import pytest
import torch

from alignbench.language_model import Lora
from alignbench.methods.base import TrainData
from alignbench.methods.dpo import DPO
from alignbench.methods.reward_model import RewardModel

LORA = Lora(r=4, target_modules=("q_proj", "v_proj"))


class KilledError(Exception):
    """Stands for a process that dies."""


def weights(trained):
    return {name: value.clone() for name, value in trained.model.state_dict().items()}


@pytest.mark.parametrize(
    ("method", "lora"),
    [
        (DPO(learning_rate=1e-3, batch_size=1, epochs=6), None),
        (DPO(learning_rate=1e-3, batch_size=1, epochs=6), LORA),
        (RewardModel(learning_rate=1e-3, batch_size=1, epochs=6), None),
    ],
    ids=["dpo", "dpo_lora", "reward_model"],
)
def test_a_killed_run_goes_on_bit_for_bit(run_context, tiny_policy, pairs, method, lora):
    data = TrainData([], [], pairs)  # 12 pairs, so 72 steps; checkpoints come every 50
    run, straight_log = run_context(lora=lora)
    torch.manual_seed(0)
    straight = method.train(data, run)

    checkpoints = run.checkpoints.parent / "killed"

    def dies_at_60(step, metrics):
        if step == 60:
            raise KilledError

    torch.manual_seed(0)
    killed, _ = run_context(tiny_policy(), lora=lora, checkpoints=checkpoints, log=dies_at_60)
    with pytest.raises(KilledError):
        method.train(data, killed)
    torch.manual_seed(0)
    again, log = run_context(tiny_policy(), lora=lora, checkpoints=checkpoints)
    resumed = method.train(data, again)
    assert min(log) == 51
    assert all(log[step] == straight_log[step] for step in log)
    expected = weights(straight)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    assert again.cost.optimizer_steps == 72
