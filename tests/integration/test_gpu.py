"""Whole runs on a GPU: both kinds of trainers, learned rewards, evaluation, and what is drawn as on a CPU."""

import pytest

import alignbench
from alignbench.pipeline import execute
from alignbench.recipe.loading import load

NAMES = ("base.yaml", "ppo_after_dpo.yaml", "ppo_learned_reward.yaml")


def run(names, device):
    outcomes = execute.run(load(list(names), [f"hardware.device={device}"]), device)
    assert {outcome.state for outcome in outcomes} == {"done"}, [outcome.error for outcome in outcomes]
    return {outcome.recipe for outcome in outcomes}


@pytest.mark.gpu
def test_runs_and_what_they_build_on(recipe_folder):
    assert run(NAMES, "cuda") == {"base", "dpo", "ppo_after_dpo", "ppo_learned_reward", "reward_model"}
    run(("base.yaml",), "cpu")
    texts = [
        alignbench.load_completions(device).query("recipe == 'base'").sort_values(["prompt_id", "sample"])["completion"]
        for device in ("cpu", "cuda")
    ]
    same = [one == other for one, other in zip(*texts, strict=True)]
    assert sum(same) > 0.9 * len(same)  # rounding may move a few
    hardware = alignbench.load_results("cuda")["hardware_class"]
    assert all(one.startswith("cuda-") for one in hardware)
