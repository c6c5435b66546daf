"""The evaluation before training is measured once for all runs of a policy and seed, and only for those."""

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from alignbench.evaluation import evaluator
from alignbench.evaluation.evaluator import evaluate
from alignbench.evaluation.protocols import get_protocol
from alignbench.models.chat import Chat
from alignbench.pipeline import curve, execute
from alignbench.pipeline.kept_evaluations import kept, key_of
from alignbench.recipe.loading import load
from alignbench.records import Cost, Prompt, fingerprint
from alignbench.runtime.device import evaluations_directory
from alignbench.scorers import text_classifier
from alignbench.scorers.text_classifier import ClassifierScorer
from alignbench.scorers.weighted_sum import Term, WeightedSum

PROMPTS = tuple(Prompt(f"p{i}", text) for i, text in enumerate(("the dog", "a red bird", "two", "the cat runs")))
PROTOCOL = get_protocol("quickstart-v1")


def judge(checkpoints, **options):
    settings = {"name": "judge", "label": "toxic", "transform": "probability"} | options
    return ClassifierScorer.load(
        str(checkpoints / "judge"), where="judge", revision=None, device=torch.device("cpu"), **settings
    )


@pytest.fixture
def key(tiny_policy, checkpoints):
    """The key of an evaluation, with anything of it changed."""

    def make(policy=None, reference=None, prompts=PROMPTS, protocol=PROTOCOL, judges=None, **how):
        judges = {"judge": judge(checkpoints)} if judges is None else judges
        how = {"seed": 0, "purpose": None} | how
        return key_of(policy or tiny_policy(), reference or tiny_policy(), prompts, protocol, judges, **how)

    return make


def moved(policy):
    with torch.no_grad():
        next(policy.model.parameters()).view(-1)[0] += 1e-3
    return policy


def test_the_same_again_has_the_same_key(key):
    assert fingerprint(key()) == fingerprint(key())


CHANGES = {
    "weights": lambda make, _: {"policy": moved(make())},
    "the reference's weights": lambda make, _: {"reference": moved(make())},
    "precision": lambda make, _: {"policy": make(dtype="bfloat16")},
    "a template": lambda make, _: {"policy": make(chat=Chat(None, "{{ messages[0].content }}"))},
    "a setting of the model": lambda make, _: {"policy": settings(make(), "layer_norm_epsilon", 1e-3)},
    "a word of the tokenizer": lambda make, _: {"policy": with_word(make())},
    "the seed": lambda *_: {"seed": 1},
    "the purpose": lambda *_: {"purpose": "along training"},
    "a prompt": lambda *_: {"prompts": (*PROMPTS[:3], Prompt("p3", "the cat sings"))},
    "a prompt's id": lambda *_: {"prompts": (*PROMPTS[:3], Prompt("p4", "the cat runs"))},
    "the group of a prompt": lambda *_: {"prompts": (*PROMPTS[:3], replace(PROMPTS[3], group="cats"))},
    "fewer prompts": lambda *_: {"prompts": PROMPTS[:3]},
    "the protocol": lambda *_: {"protocol": replace(PROTOCOL, toxicity_threshold=0.6)},
    "a judge's label": lambda _, files: {"judges": {"judge": judge(files, label="neutral")}},
    "a judge's setting": lambda _, files: {"judges": {"judge": settings(judge(files), "layer_norm_eps", 1e-3)}},
    "the order of a judge's labels": lambda _, files: {"judges": {"judge": relabelled(judge(files))}},
    "a word of a judge's tokenizer": lambda _, files: {"judges": {"judge": with_word(judge(files))}},
    "how much a judge reads": lambda _, files: {"judges": {"judge": shortened(judge(files))}},
    "a judge's name": lambda _, files: {"judges": {"other": judge(files)}},
    "no judge": lambda *_: {"judges": {}},
}


def settings(policy, name, value):
    setattr(policy.model.config, name, value)
    return policy


def relabelled(judge):
    names = judge.model.config.id2label
    judge.model.config.id2label = dict(zip(names, reversed(names.values()), strict=True))
    return judge


def shortened(judge):
    judge.tokenizer.model_max_length = 7
    return judge


def with_word(policy):
    policy.tokenizer.add_tokens(["zebra"])
    return policy


@pytest.mark.parametrize("what", CHANGES)
def test_another_evaluation_has_another_key(what, key, tiny_policy, checkpoints):
    assert fingerprint(key(**CHANGES[what](tiny_policy, checkpoints))) != fingerprint(key())


def test_kernels_threads_and_code_are_part_of_the_key(key, monkeypatch):
    plain, n_threads = key(), torch.get_num_threads()
    monkeypatch.setattr("alignbench.pipeline.kept_evaluations.choice.rule", lambda: {"all": "onednn"})
    assert fingerprint(key()) != fingerprint(plain)
    monkeypatch.undo()
    try:
        torch.set_num_threads(n_threads + 1)
        assert fingerprint(key()) != fingerprint(plain)
    finally:
        torch.set_num_threads(n_threads)
    monkeypatch.setattr("alignbench.pipeline.kept_evaluations.code_hash", lambda *_, **__: "other code")
    assert fingerprint(key()) != fingerprint(plain)


def test_what_cannot_be_told_has_no_key(key, tiny_policy, checkpoints):
    drawing = judge(checkpoints)
    drawing.may_draw = True
    assert key(judges={"judge": drawing}) is None
    wrapped = tiny_policy()
    wrapped.__class__ = type("Other", (type(wrapped),), {})
    assert key(policy=wrapped) is None


@pytest.fixture
def measured(tiny_policy, checkpoints):
    """Measures, and counts how often."""
    calls = []

    def measure():
        calls.append(None)
        judges = {"judge": judge(checkpoints)}
        return evaluate(tiny_policy(), moved(tiny_policy()), PROMPTS, PROTOCOL, judges, groups={"p0": "x"}), Cost(1.0)

    measure.calls = calls
    return measure


def same(one, other):
    for name in ("prompt_values", "completions", "divergence"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=True)
    assert one.metrics == other.metrics
    assert (one.protocol, one.answer_cost) == (other.protocol, other.answer_cost)
    assert one.prompt_groups == other.prompt_groups


def test_the_judges_inside_a_sum_count(key, checkpoints):
    inside, changed = judge(checkpoints), with_word(judge(checkpoints))
    sums = [{"judge": WeightedSum([Term("a", one, 1.0)], name="sum")} for one in (inside, changed)]
    assert fingerprint(key(judges=sums[0])) != fingerprint(key(judges=sums[1]))


def test_numbers_of_numpy_can_be_kept(measured, tmp_path):
    """A metric of a package may count and measure with numpy; a results file takes what it gives as well."""
    report, _ = measured()
    numbers = {"value": np.float32(0.5), "n_scored": np.int64(3), "replicates": np.array([0.25, np.nan])}
    report = replace(report, metrics=(replace(report.metrics[0], **numbers),))
    kept(tmp_path, {"a": 1}, lambda: (report, Cost()))
    [again] = kept(tmp_path, {"a": 1}, measured)[0].metrics
    assert (again.value, again.n_scored, again.replicates[0]) == (0.5, 3, 0.25)
    assert len(measured.calls) == 1


def test_what_is_kept_is_what_was_measured(measured, tmp_path):
    first, cost = kept(tmp_path, {"a": 1}, measured)
    again, nothing = kept(tmp_path, {"a": 1}, measured)
    assert (cost, nothing) == (Cost(1.0), None)
    same(again, first)
    assert {str(a.dtype) for a in again.completions["token_ids"]} == {"int32"}
    kept(tmp_path, {"a": 2}, measured)
    assert len(measured.calls) == 2


@pytest.mark.parametrize("file", ["rows.jsonl", "entry.json"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_one_is_measured_again(damage, file, measured, tmp_path, caplog):
    first, _ = kept(tmp_path, {"a": 1}, measured)
    [path] = tmp_path.glob(f"evaluation-*/{file}")
    text = path.read_text()
    if damage == "gone":
        path.unlink()
    else:
        path.write_text(text.replace("0", "1", 1) if damage == "changed" else text[: len(text) // 2])
    again, cost = kept(tmp_path, {"a": 1}, measured)
    assert cost == Cost(1.0)
    assert "damaged" in caplog.text
    same(again, first)
    assert kept(tmp_path, {"a": 1}, measured)[1] is None


def test_nothing_is_kept_without_a_folder_or_a_key(measured, tmp_path):
    for directory, key in ((None, {"a": 1}), (tmp_path, None)):
        assert kept(directory, key, measured)[1] == Cost(1.0)
    assert not list(tmp_path.iterdir())


def test_two_recipes_of_a_policy_are_measured_once_before_training(recipe_folder, monkeypatch):
    asked, plain = [], evaluator.evaluate

    def spied(*args, **options):
        asked.append(options.get("purpose"))
        return plain(*args, **options)

    remembering, remembered, with_reward = [], [], curve.with_reward

    @contextmanager
    def remember():
        remembering.append(True)
        yield
        remembering.pop()

    def rewarded(*args):
        remembered.append(bool(remembering))
        return with_reward(*args)

    monkeypatch.setattr(text_classifier, "remembered_logits", remember)

    monkeypatch.setattr(evaluator, "evaluate", spied)
    monkeypatch.setattr(curve, "with_reward", rewarded)
    outcomes = execute.run(load(["base.yaml", "ppo.yaml"], ["evaluation.evaluate_every=100000"]), Path("results"))
    assert [outcome.state for outcome in outcomes] == ["done"] * 2, [outcome.error for outcome in outcomes]
    assert asked == ["along training", None, "along training", None]  # before and after `base`; only after `ppo`
    assert remembered == [False, True]  # of `ppo`: what the judges have read before training may be another run's
    folders = [Path(f"results/{name}/seed0") for name in ("base", "ppo")]
    first, again = (next(folder.glob("evaluations/*/step0")) for folder in folders)
    for name in ("completions.parquet", "prompt_values.parquet", "divergence.parquet"):
        one, other = (pd.read_parquet(folder / name) for folder in (first, again))
        assert one.equals(other[one.columns])  # beside them is what the reward says, which `base` has none of
    events = [[json.loads(line)["event"] for line in (folder / "events.jsonl").open()] for folder in folders]
    assert ["kept evaluation" in names for names in events] == [False, True]


def test_keeping_can_be_switched_off(monkeypatch, tmp_path):
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path))
    assert evaluations_directory() == tmp_path / "evaluations"
    monkeypatch.setenv("ALIGNBENCH_KEEP_EVALUATIONS", "0")
    assert evaluations_directory() is None
