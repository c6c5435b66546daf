from __future__ import annotations

from pathlib import Path

from alignbench.comparison.came_out import came_out

_RUNS = Path(__file__).parents[1] / "golden" / "results" / "v1_november"


def test_a_policy_by_its_held_out_judge():
    said = came_out(_RUNS / "ppo_detox" / "seed0")
    assert said.startswith("toxicity by judge 0.")
    assert ", KL " in said
    assert ", perplexity " in said
    assert said.endswith(" s of training")


def test_what_was_not_trained_has_no_seconds_of_training():
    said = came_out(_RUNS / "base" / "seed0")
    assert said.startswith("toxicity by judge 0.")
    assert "of training" not in said


def test_a_reward_model_by_the_pairs_that_it_ranks_right():
    assert came_out(_RUNS / "reward_model" / "seed0").startswith("pairs of held-out prompts ranked right 0.")


def test_nothing_of_what_cannot_be_read(tmp_path):
    assert came_out(tmp_path / "gone") == ""
