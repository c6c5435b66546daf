"""What a recipe names is loaded once: the policy and its frozen reference twice, a classifier once for all its uses."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import alignbench
from alignbench.errors import RecipeError
from alignbench.methods.best_of_n import BestOf
from alignbench.methods.word_filter import Filtered
from alignbench.models.loading import (
    load_classifier,
    load_language_model,
    shared_classifiers,
    weights_fingerprint,
)
from alignbench.pipeline import execute
from alignbench.pipeline.build import at_hand, make_yardsticks
from alignbench.recipe.loading import load

QUICK = ["evaluation.n_prompts=8", "evaluation.n_validation_prompts=4", "evaluation.batch_size=64"]


@pytest.fixture
def loads(monkeypatch):
    """Counts what is loaded from disk, by the kind of model and the last part of its path."""
    counts = Counter()
    for factory, kind in ((AutoModelForCausalLM, "writes"), (AutoModelForSequenceClassification, "reads")):

        def spy(name, *args, plain=factory.from_pretrained, kind=kind, **kwargs):
            counts[f"{kind} {Path(name).name}"] += 1
            return plain(name, *args, **kwargs)

        monkeypatch.setattr(factory, "from_pretrained", spy)
    return counts


def run(name, sets=()):
    outcomes = execute.run(load([f"{name}.yaml"], [*QUICK, *sets]), Path("results"))
    assert outcomes[-1].state == "done", [one.error for one in outcomes]


@pytest.mark.parametrize("name", ["ppo", "dpo"])
def test_with_points_along_training(recipe_folder, loads, name):
    run(name, sets=["evaluation.evaluate_every=8", "reward.transform=logprob"])
    assert len(list(Path(f"results/{name}/seed0/evaluations").glob("*/step*"))) == 5
    assert loads == {"writes one_layer": 2, "reads classifier": 1, "reads judge": 1}


@pytest.mark.parametrize("name", ["ppo", "dpo"])
def test_an_adapter_s_reference_has_the_weights_below_it(recipe_folder, checkpoints, loads, monkeypatch, name):
    made = []
    monkeypatch.setattr(
        execute, "make_yardsticks", lambda parts: made.append((parts, make_yardsticks(parts))) or made[0][1]
    )
    run(name, sets=["policy.lora={r: 4, target_modules: [q_proj, v_proj]}", "method.learning_rate=1.0e-2"])
    assert loads == {"writes one_layer": 1, "reads classifier": 1, "reads judge": 1}
    ((parts, yardsticks),) = made
    ours, below = yardsticks.reference.model, parts.policy.model.get_base_model()
    places = {tensor.data_ptr() for tensor in below.parameters()}
    assert {tensor.data_ptr() for tensor in ours.parameters()} <= places
    assert not any("lora" in key for key in ours.state_dict())
    assert weights_fingerprint(ours) == weights_fingerprint(load_language_model(str(checkpoints / "one_layer")).model)
    assert weights_fingerprint(ours) == yardsticks.conditions["base_model"]
    assert alignbench.load_metrics("results").query("metric == 'kl'").value.item() != 0


def test_a_reward_model_and_a_run_that_builds_on_it(recipe_folder, loads):
    """The start of the reward model is the policy's checkpoint, with a head; no policy is measured."""
    run("reward_model")
    assert loads == {"writes one_layer": 1, "reads one_layer": 1, "reads classifier": 1, "reads judge": 1}
    loads.clear()
    run("ppo_learned_reward")
    assert loads == {"writes one_layer": 2, "reads artifact": 1, "reads classifier": 1, "reads judge": 1}


def test_a_policy_that_builds_on_another(recipe_folder, loads):
    """Once they are loaded, the files of the recipes may go."""
    run("dpo")
    loads.clear()
    recipes = load(["ppo_after_dpo.yaml"], QUICK)
    for file in recipe_folder.glob("*.yaml"):
        file.unlink()
    assert [one.state for one in execute.run(recipes, Path("results"))] == ["kept", "done"]
    assert loads == {"writes artifact": 1, "writes one_layer": 1, "reads classifier": 1, "reads judge": 1}


def test_a_policy_of_another_kind_serves_who_asks_for_answers_alone(recipe_folder):
    """Best of a filter's answers: the chain is paid for, and who wants weights is told that there are none."""
    kinds = {
        "filtered": {"method": {"name": "word_filter", "words": ["the", "dog"]}},
        "best": {"method": {"name": "best_of_n", "n": 3}, "policy": {"run": "filtered"}},
        "dpo": {"method": {"name": "dpo", "batch_size": 4}, "policy": {"run": "filtered"}},
    }
    for name, recipe in kinds.items():
        (recipe_folder / f"{name}.yaml").write_text(json.dumps({"extends": "shared.yaml", "name": name, **recipe}))
    with pytest.raises(RecipeError, match="filtered, whose method word_filter gives a policy without weights"):
        load(["dpo.yaml"])
    run("best")
    policy = alignbench.load_policy(Path("results/best/seed0/artifact"))
    assert (type(policy), type(policy.base), policy.n) == (BestOf, Filtered, 3)
    texts = pd.read_parquet(next(Path("results/best").rglob("completions.parquet")))["completion"]
    assert not [text for text in texts if {"the", "dog"} & set(text.split())]
    [metrics] = Path("results/best").rglob("metrics.json")
    assert json.loads(metrics.read_text())["answer_cost"]["reward_calls"] == 3


def test_classifiers_are_shared_within_the_block_alone(checkpoints):
    name = str(checkpoints / "classifier")
    with shared_classifiers():
        model, _ = load_classifier(name, where="reward")
        again, _ = load_classifier(name, where="evaluation.scorers: judge")
        fresh, _ = load_classifier(name, where="method.model", labels=["reward"])
    after, _ = load_classifier(name, where="reward")
    assert again is model
    assert fresh is not model
    assert after is not model


def test_a_reference_is_on_the_device_only_while_it_is_used(checkpoints):
    """Also where its use fails; there is no other device here, so what it is told is written down."""
    policy, done = load_language_model(str(checkpoints / "policy")), []
    plain = policy.model.to
    policy.model.to = lambda device: done.append(str(device)) or plain("cpu")

    def use(device):
        with at_hand(policy, torch.device(device)) as same:
            done.append(same is policy)
            raise ZeroDivisionError

    for device, expected in (("cpu", [True]), ("cuda", ["cuda", True, "cpu"])):
        done.clear()
        with pytest.raises(ZeroDivisionError):
            use(device)
        assert done == expected
