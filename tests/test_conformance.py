"""Everything that is built in passes the checks that authors of plug-ins have."""

import json

import pytest
import torch
from conformance import (
    check_imports,
    check_method,
    check_metric,
    check_probe,
    check_scorer,
    check_source,
    check_training,
    tiny_policy,
)

from alignbench import plugins
from alignbench.embedded import resolve
from alignbench.evaluation.probes.neutral import Neutral
from alignbench.scorers.base import Place
from alignbench.scorers.classifier import ClassifierJudge, ClassifierReward
from alignbench.scorers.function import FunctionSettings
from alignbench.scorers.lexicon import LexiconJudge
from datasets_prep import hub

ON_POLICY = {"batch_size": 8, "mini_batch_size": 4, "completion_tokens": [6, 8], "checkpoint_every": 1}
SMALL = {
    "grpo": {"completions_per_prompt": 4, **ON_POLICY},
    "online_dpo": ON_POLICY,
    "quark": {**ON_POLICY, "epochs": 1},
    "red_team": {"searches": ("random", "attacker"), "completions_per_prompt": 4, **ON_POLICY},
    "raft": {"completions_per_prompt": 2, **ON_POLICY},
    "reinforce_pp": ON_POLICY,
    "rloo": ON_POLICY,
    "ppo": {"batch_size": 8, "mini_batch_size": 4, "ppo_epochs": 1, "completion_tokens": [6, 8], "checkpoint_every": 1},
    "best_of_n": {"n": 3},
    "dexperts": {},
    "gradient_ascent": {"batch_size": 4},
    "interpolated": {},
    "projected": {},
    "prompted": {},
    "steered": {},
    "task_vector": {"scales": [0.5]},
    "word_filter": {"words": ["idiot", "fool"]},
    "external": {"model": "embedded/policy"},
    "dpo": {"batch_size": 4},
    "kto": {"batch_size": 4},
    "orpo": {"batch_size": 4},
    "cpo": {"batch_size": 4},
    "simpo": {"batch_size": 4},
    "rrhf": {"batch_size": 2},
    "reward_model": {"batch_size": 4},
    "sft": {"batch_size": 4},
    "steerlm": {"batch_size": 4, "levels": 2},
    "untrained": {},
}


@pytest.mark.parametrize("name", [name for name in plugins.METHODS.built_in if name != "stored_completions"])
def test_a_method_that_is_built_in(name):
    check_training(check_method(name, **SMALL[name]))


def test_the_method_that_draws_nothing():
    check_method("stored_completions", file="theirs.jsonl")


@pytest.mark.parametrize("name", plugins.METRICS.built_in)
def test_a_metric_that_is_built_in(name):
    found = plugins.METRICS.load(name)
    found = found if isinstance(found, tuple) else (found,)
    of_runs = [metric for metric in found if metric.needs == "rewards"]
    assert of_runs in ([], list(found))
    if not of_runs:
        check_metric(found)


def place(name="judge"):
    return Place("evaluation.scorers", name, torch.device("cpu"), resolve, "")


def classifier(**settings):
    return ClassifierReward(classifier="embedded/classifier", **settings).load(place())


def test_scorers_that_are_built_in(tmp_path):
    (tmp_path / "f.py").write_text("def f(prompts, texts):\n    return [None if not t else 0.5 for t in texts]\n")
    (tmp_path / "words.txt").write_text("fool\n")
    check_scorer(ClassifierJudge(classifier="embedded/judge", label="toxic").load(place()), is_judge=True)
    check_scorer(classifier(label="nothate"), others=[classifier(harmful_label="hate"), classifier(label="hate")])
    words = {how: LexiconJudge(lexicon=str(tmp_path / "words.txt"), lexicon_score=how) for how in ("any", "share")}
    check_scorer(words["any"].load(place()), is_judge=True, others=[words["share"].load(place())])
    function = FunctionSettings(function=f"{tmp_path / 'f.py'}:f").load(place())
    check_scorer(function, is_judge=True, unscored=[""])


def test_sources_that_are_built_in(tmp_path, monkeypatch):
    rows = [{"prompt": {"text": f"text {i}", "toxicity": i / 10}, "challenging": i > 6} for i in range(9)]
    (tmp_path / "train.csv").write_text("id,comment_text,label\na,kind,0\nb,rude,1\n")
    (tmp_path / "texts.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    monkeypatch.setattr(hub, "read_rows", lambda *_: rows)
    monkeypatch.setattr(hub, "file_path", lambda *_: tmp_path / "texts.jsonl")
    assert len(check_source("real_toxicity_prompts")) == 9
    assert len(check_source("real_toxicity_prompts_nontoxic")) == 5
    assert [one.text for one in check_source("challenge_prompts")] == ["text 7", "text 8"]
    assert [one.toxicity for one in check_source("wiki_toxic", folder=tmp_path)] == [0.0, 1.0]
    assert check_source("wikitext") == []


@pytest.mark.parametrize(
    ("name", "row", "prompt"),
    [
        ("alpaca", {"instruction": "Add.", "input": "", "output": "2"}, "### Instruction:\nAdd.\n\n### Response:\n"),
        ("openassistant_guanaco", {"text": "### Human: Hi### Assistant: Yes."}, "### Human: Hi### Assistant:"),
        ("dialogsum", {"id": "d1", "dialogue": "A: Hi", "summary": "They meet.", "topic": "x"}, "A: Hi"),
        ("paradetox", {"en_toxic_comment": "you fool", "en_neutral_comment": "you there"}, "you"),
        ("hh_rlhf", {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
         "\n\nHuman: Hi\n\nAssistant:"),
    ],
)  # fmt: skip
def test_a_source_of_demonstrations_or_pairs(tmp_path, monkeypatch, name, row, prompt):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setattr(hub, "read_rows", lambda *_: [row])
    monkeypatch.setattr(hub, "file_path", lambda *_: tmp_path / "rows.jsonl")
    (found,) = check_source(name)
    assert found.text.endswith(prompt)


def test_the_probe_that_is_built_in():
    [found] = check_probe(Neutral(texts=("the dog runs.", "a cat said, please.")), tiny_policy())
    assert found.metric == "neutral_perplexity"
    assert found.value > 1


def test_all_that_is_built_in_is_looked_up_without_heavy_libraries():
    kinds = [kind for kind in vars(plugins).values() if isinstance(kind, plugins.Plugins)]
    check_imports(*(module for kind in kinds for module in kind.built_in.values()))
