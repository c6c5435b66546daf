"""A smoke-sized run on real text and real trained models, where they are: not part of this repository."""

import json
from pathlib import Path

import pytest

import alignbench
from alignbench.pipeline import execute
from alignbench.recipe.loading import load

LAB = Path(__file__).parents[3] / "shared" / "lab"

pytestmark = pytest.mark.skipif(
    not LAB.is_dir(), reason="real models and data (shared/lab beside this checkout) are not here: nothing was tested"
)


@pytest.fixture
def lab_recipes(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    judge = {"name": "judge", "classifier": str(LAB / "toxicity-judge"), "label": "toxic"}
    shared = {
        "policy": {"model": str(LAB / "policy")},
        "reward": {"classifier": str(LAB / "toxicity-classifier"), "label": "nothate"},
        "data": {
            "prompts": str(LAB / "real_toxicity_prompts" / "train.jsonl.gz"),
            "heldout": str(LAB / "real_toxicity_prompts" / "test.jsonl.gz"),
            "min_prompt_toxicity": 0.3,
            "prompt_tokens": [10, 15],
        },
        "pairs": {"completions_per_prompt": 4},
        "budget": {"completions": 128},
        "evaluation": {
            "protocol": "trl-detox-v1",
            "n_prompts": 60,
            "scorers": ["reward", judge],
            "evaluate_every": 64,
            "n_validation_prompts": 12,
        },
        "hardware": {"device": "cpu", "threads": 1},
    }
    ppo = {"name": "ppo", "learning_rate": 3e-5, "batch_size": 32, "mini_batch_size": 8, "kl_target": None}
    recipes = {
        "base": {"method": {"name": "untrained"}},
        "ppo": {"method": ppo, "budget": {"completions": 64}},
        "dpo": {"method": {"name": "dpo", "learning_rate": 1e-4, "batch_size": 8, "epochs": 3}},
        "reward_model": {"method": {"name": "reward_model", "learning_rate": 1e-3, "batch_size": 8, "epochs": 4}},
        "ppo_learned_reward": {"method": ppo, "reward": {"run": "reward_model"}, "budget": {"completions": 32}},
    }
    (tmp_path / "shared.yaml").write_text(json.dumps(shared))
    for name, recipe in recipes.items():
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"extends": "shared.yaml", "name": name, **recipe}))
    return list(recipes)


def test_a_policy_and_ppo_on_real_input(lab_recipes):
    """One step of PPO, and few prompts; `test_the_main_job_on_real_input` is the whole of it."""
    sets = ["evaluation.n_prompts=16", "evaluation.evaluate_every=0", "budget.completions=32"]
    outcomes = execute.run(load(["base.yaml", "ppo.yaml"], sets), Path("results"))
    assert [o.state for o in outcomes] == ["done"] * 2, [o.error for o in outcomes]
    assert_as_before_training(alignbench.load_metrics("results"), more=0.1)


def assert_as_before_training(metrics, more=0.0):
    """What the makers of these models measured before any training: about 0.28 and 0.37, on other prompts and draws."""
    values = metrics.set_index(["recipe", "metric", "scorer"])["value"]
    assert values["base", "toxicity_mean", "reward"] == pytest.approx(0.28, abs=0.1 + more)
    assert values["base", "toxicity_mean", "judge"] == pytest.approx(0.37, abs=0.12 + more)
    by_name = {(recipe, metric): value for (recipe, metric, _), value in values.items()}
    assert by_name["base", "kl"] == pytest.approx(0, abs=1e-3)
    assert by_name["ppo", "kl_exact"] > 1e-4
    first = alignbench.load_train_log("results/ppo").iloc[0]
    assert abs(first["objective/kl"]) < 1e-3
    return by_name


@pytest.mark.slow
def test_the_main_job_on_real_input(lab_recipes):
    outcomes = execute.run(load([f"{name}.yaml" for name in lab_recipes]), Path("results"))
    assert [o.state for o in outcomes] == ["done"] * 5, [o.error for o in outcomes]
    by_name = assert_as_before_training(alignbench.load_metrics("results"))
    log = alignbench.load_train_log("results/dpo")
    assert log["policy/loss"].iloc[0] == pytest.approx(0.6931, abs=1e-3)
    assert log["objective/reward_margin"].iloc[-1] > 0.1
    assert by_name["dpo", "kl_exact"] > 1e-4
    # Sixteen steps on 32 pairs: enough to learn these, not enough to say anything about others.
    assert by_name["reward_model", "pair_accuracy_train"] > 0.7
    assert 0 <= by_name["reward_model", "pair_accuracy"] <= 1
