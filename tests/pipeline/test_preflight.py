"""What is found before a run begins: odd texts, the longest text, a step's shapes, saving; and `check --load`."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import alignbench
from alignbench.cli import main
from alignbench.errors import ModelError, ScorerError
from alignbench.methods.dpo import DPO
from alignbench.methods.quark import Quark
from alignbench.methods.steerlm import SteerLM
from alignbench.models.loading import load_language_model
from alignbench.pipeline import execute
from alignbench.pipeline.preflight import (
    check_before_start,
    check_policy,
    check_room_before,
    check_saving,
    check_scorer,
    check_step,
)
from alignbench.recipe.loading import load
from alignbench.records import Completion, Prompt

PROMPTS = [Prompt("short", "the dog"), Prompt("long", "the dog runs and one bird sings and the cat")]


class Answers:
    """A scorer that answers as it is told, alone and together."""

    name = "told"
    fingerprint = ""

    def __init__(self, alone, together=None):
        self.alone, self.together = alone, together or alone

    def score(self, prompts, completions):
        if len(completions) == 1:
            return [self.alone[{"": 0, "a": 1}.get(completions[0], 2)]]
        return [*self.together, self.alone[1]]


@pytest.mark.parametrize(
    ("alone", "together", "is_judge", "said"),
    [
        ([0.1, 0.2, None], None, True, None),
        ([None, 0.2, 0.3], None, True, None),
        ([-3.0, 7.0, 9.0], None, False, None),
        ([-30.0, 7.0, 90.0], [-30.004, 7.0, 90.01], False, None),  # rounding of a score is relative to it
        ([0.1, float("nan"), 0.3], None, True, "got nan for a short text, expected a number between 0 and 1"),
        ([float("inf"), 0.2, 0.3], None, False, "got inf for an empty text, expected a finite number"),
        ([0.1, 0.2, 1.5], None, True, "got 1.5 for a very long text"),
        ([0.1, 0.2, 0.3], [0.1, 0.25, 0.3], True, "a short text has the score 0.2 alone and 0.25 beside other texts"),
        ([0.1, 0.2, None], [0.1, 0.2, 0.3], True, "a very long text has the score None alone and 0.3"),
    ],
)
def test_odd_texts(alone, together, is_judge, said):
    scorer = Answers(alone, together)
    if said is None:
        check_scorer(scorer, "reward", "the dog", is_judge=is_judge)
        return
    with pytest.raises(ScorerError, match=r"^evaluation.scorers: bert: ") as caught:
        check_scorer(scorer, "evaluation.scorers: bert", "the dog", is_judge=is_judge)
    assert said in str(caught.value)


@pytest.fixture
def policy(checkpoints):
    return load_language_model(str(checkpoints / "policy"))


def test_a_sound_policy_passes_and_keeps_nothing(policy):
    completions = check_policy(policy, PROMPTS, 8)
    assert [len(one.token_ids) for one in completions] == [8, 8]
    weights = {name: value.clone() for name, value in policy.model.state_dict().items()}
    check_step(policy, PROMPTS[1], completions[1], n_rows=4)
    check_saving(policy)
    assert all(parameter.grad is None for parameter in policy.model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in policy.model.state_dict().items())


def test_positions_that_run_out(policy):
    with pytest.raises(ModelError, match=r"takes 64 tokens"):
        check_policy(policy, PROMPTS, 60)


@pytest.mark.parametrize(("method", "n_before"), [(Quark(), 1), (SteerLM(attribute="good {level} "), 2), (DPO(), 0)])
def test_what_a_policy_of_its_own_kind_reads_before_a_prompt_needs_room(policy, method, n_before):
    """Before training, not in the evaluation after it."""
    found = method.facts.tokens_before_a_prompt(method, policy)
    assert found == n_before
    fits = policy.longest_prompt(50) - len(policy.encode_prompt(PROMPTS[1]))
    check_room_before(policy, PROMPTS[1], found, 50 + fits - n_before)
    if n_before:
        with pytest.raises(ModelError, match=rf"takes 64 tokens: {n_before} that the method has before each prompt"):
            check_room_before(policy, PROMPTS[1], found, 50 + fits - n_before + 1)


def test_weights_that_are_not_numbers(policy):
    with torch.no_grad():
        next(policy.model.parameters())[:] = float("nan")
    with pytest.raises(ModelError, match="policy"):
        check_policy(policy, PROMPTS, 4)


def test_too_little_memory_names_what_to_make_smaller(policy, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("alignbench.pipeline.preflight.completion_forward", exhausted)
    completion = Completion("long", 0, "", (3, 4, 5), "length")
    with pytest.raises(ModelError, match=r"too little memory; set method.micro_batch_size or policy.lora"):
        check_step(policy, PROMPTS[1], completion)


def test_what_comes_back_from_a_step(policy, monkeypatch):
    completion = Completion("long", 0, "", (3, 4, 5), "length")
    for parameter in policy.model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ModelError, match="cannot be trained"):
        check_step(policy, PROMPTS[1], completion)


def test_what_cannot_be_saved_is_said_before_training(policy, monkeypatch):
    def refuse(folder):
        raise ValueError("temperature needs do_sample\nand more")

    monkeypatch.setattr(policy.model.generation_config, "save_pretrained", refuse)
    with pytest.raises(ModelError, match=r"cannot be saved: ValueError: temperature needs do_sample$"):
        check_saving(policy)


def test_a_run_stops_before_it_trains(recipe_folder):
    (recipe_folder / "odd.py").write_text(
        "def last_word(prompts, completions):\n    return [float(len(c.split()[-1])) for c in completions]\n"
    )
    sets = ["reward.function=odd.py:last_word", "reward.classifier=null", "reward.label=null"]
    judge = json.loads((recipe_folder / "shared.yaml").read_text())["evaluation"]["scorers"][1]
    sets.append(f"evaluation.scorers={json.dumps([judge])}")
    [outcome] = execute.run(load(["ppo.yaml"], sets), Path("results"))
    assert outcome.state == "failed"
    assert "the function raised IndexError" in str(outcome.error)
    assert not list(Path("results").glob("ppo/*/train_log.jsonl"))


def test_a_reward_model_without_a_chat_template_is_refused_before_pairs_are_drawn(recipe_folder, monkeypatch):
    monkeypatch.setattr(execute, "build_training_data", lambda *_: pytest.fail("pairs were drawn"))
    [outcome] = execute.run(load(["reward_model.yaml"], ["method.text=chat"]), Path("results"))
    assert outcome.state == "failed"
    assert "method.text: got chat, and the tokenizer of this classifier has no chat template" in str(outcome.error)


def test_it_moves_no_number(recipe_folder, monkeypatch):
    sets = ["budget.completions=16"]
    execute.run(load(["ppo.yaml"], sets), Path("with"))
    monkeypatch.setattr(execute, "check_before_start", lambda *_: None)
    execute.run(load(["ppo.yaml"], sets), Path("without"))
    logs = [
        alignbench.load_train_log(f"{folder}/").filter(regex="^(objective|policy|value)/")
        for folder in ("with", "without")
    ]
    pd.testing.assert_frame_equal(*logs)
    metrics = [alignbench.load_metrics(f"{folder}/")[["metric", "scorer", "value"]] for folder in ("with", "without")]
    pd.testing.assert_frame_equal(*metrics)
    costs = [
        alignbench.load_results(f"{folder}/")[["generated_tokens", "reward_calls", "forward_flops"]]
        for folder in ("with", "without")
    ]
    pd.testing.assert_frame_equal(*costs)


def test_it_leaves_the_random_states_alone(recipe_folder, monkeypatch):
    seen = []

    def spied(*arguments):
        for _ in range(2):
            seen.append((random.getstate(), torch.get_rng_state().tolist()))
            if len(seen) == 1:
                check_before_start(*arguments)

    monkeypatch.setattr(execute, "check_before_start", spied)
    execute.run(load(["base.yaml"]), Path("results"))
    assert seen[0] == seen[1]


def test_check_load_tries_every_recipe(recipe_folder):
    result = CliRunner().invoke(main, ["check", "--load", "base.yaml", "ppo.yaml", "ppo_learned_reward.yaml"])
    assert result.exit_code == 0, result.output
    assert "base: loaded and tried\n" in result.output
    assert "ppo_learned_reward: loaded and tried; not tried, as it is trained first: reward_model" in result.output
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("name", "sets", "bytes_of_logits", "n_rows"),
    [
        ("ppo", ["method.mini_batch_size=8"], 2**28, 8),
        ("ppo", ["method.mini_batch_size=8"], 0, 1),
        ("dpo", ["method={name: rrhf, batch_size: 4}", "pairs.completions_per_prompt=6"], 2**28, 24),
    ],
)
def test_a_pass_has_as_many_rows_as_in_training(recipe_folder, monkeypatch, name, sets, bytes_of_logits, n_rows):
    seen = []
    monkeypatch.setattr("alignbench.models.output_layer.MOST_BYTES", bytes_of_logits)
    monkeypatch.setattr("alignbench.pipeline.preflight.check_step", lambda *arguments: seen.append(arguments[3]))
    given = (part for one in sets for part in ("--set", one))
    result = CliRunner().invoke(main, ["check", "--load", f"{name}.yaml", *given])
    assert result.exit_code == 0, result.output
    assert seen == [n_rows]


@pytest.mark.parametrize("name", ["ppo", "reward_model"])
def test_a_prompt_that_is_only_measured_on_needs_no_room_for_training(recipe_folder, name):
    words = ["the", "a", "one", "two", "dog", "cat", "bird", "man", "runs", "sings", "sleeps"]
    texts = [" ".join(words[(i * 3 + j * (1 + i % 5)) % 11] for j in range(33)) for i in range(20)]
    Path("long.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    key = "method" if name == "ppo" else "pairs"
    sets = ["data.heldout=long.jsonl", "evaluation.n_prompts=10", f"{key}.completion_tokens=[4, 50]"]
    options = [part for one in sets for part in ("--set", one)]
    result = CliRunner().invoke(main, ["check", "--load", f"{name}.yaml", *options])
    assert result.exit_code == 0, "33 and 50 tokens are more than 64, and never meet: " + result.output
    assert f"{name}: loaded and tried" in result.output


def test_a_reward_without_room_for_the_longest_completion(recipe_folder, checkpoints):
    import shutil

    shutil.copytree(checkpoints / "classifier", "short")
    record = json.loads(Path("short/tokenizer_config.json").read_text()) | {"model_max_length": 12}
    Path("short/tokenizer_config.json").write_text(json.dumps(record))
    sets = ["reward.classifier=short", "method.completion_tokens=[4, 20]"]
    result = CliRunner().invoke(
        main, ["check", "--load", "ppo.yaml", *(part for one in sets for part in ("--set", one))]
    )
    assert result.exit_code == 1
    assert "ppo: method.completion_tokens: expected shorter completions: a completion of 20 tokens" in result.output


def test_check_load_says_all_that_fails(recipe_folder, checkpoints):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoints / "judge", "damaged")
    weights = load_file("damaged/model.safetensors")
    save_file({name: torch.full_like(w, float("nan")) for name, w in weights.items()}, "damaged/model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    scorers = json.dumps(["reward", {"name": "judge", "classifier": "damaged", "label": "toxic"}])
    result = CliRunner().invoke(
        main, ["check", "--load", "base.yaml", "ppo.yaml", "--set", f"evaluation.scorers={scorers}"]
    )
    assert result.exit_code == 1
    assert "base: " in result.output.partition("Error")[2]
    assert "ppo: " in result.output.partition("Error")[2]
    assert "nan" in result.output
