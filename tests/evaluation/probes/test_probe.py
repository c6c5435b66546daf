"""A probe of an installed package: a recipe switches it on, and it is measured, stored, shown and compared."""

import importlib
import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import alignbench
from alignbench import plugins
from alignbench.comparison.compare import compare
from alignbench.comparison.document import document
from alignbench.errors import ComparabilityError, RecipeError
from alignbench.evaluation.metrics.metric import Metric, Sample
from alignbench.evaluation.probes.probe import Probe
from alignbench.evaluation.protocols import get_protocol
from alignbench.evaluation.samples import completions_of
from alignbench.pipeline import execute
from alignbench.recipe.loading import load
from alignbench.records import Decoding, Prompt
from alignbench.statistics.jackknife import jackknife_group

QUESTIONS = [f"the {adjective} {noun}" for adjective in ("old", "red", "kind", "bad") for noun in ("dog", "cat", "man")]


class Questions(Probe):
    """How many words the policy answers to questions of its own."""

    metrics: ClassVar = (
        Metric(
            name="question_words",
            direction="none",
            of_prompts=lambda sample: np.array([[len(text.split()) for text in own] for own in sample.texts], float),
            condition="questions",
        ),
    )

    texts: tuple[str, ...]
    """The questions."""
    max_new_tokens: int = 6

    def measure(self, policy, reference, scorers, *, seed, batch_prompts):
        prompts = [Prompt(text, text) for text in self.texts]
        answers = completions_of(policy, prompts, Decoding(self.max_new_tokens), 1, (seed, "questions"))
        groups = np.array([jackknife_group(text) for text in self.texts])
        return Sample(prompts, answers, get_protocol("quickstart-v1"), groups, np.zeros((len(prompts), 1)))

    def conditions(self):
        return {"questions": [list(self.texts), self.max_new_tokens]}


@pytest.fixture
def installed(monkeypatch):
    """The probe of this file, installed for the length of a test; what is returned takes it away."""
    entries = [EntryPoint("questions", "elsewhere:Questions", "alignbench.probes")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == "alignbench.probes" else [])
    monkeypatch.setitem(sys.modules, "elsewhere", importlib.import_module(__name__))
    plugins.entries_of.cache_clear()

    def uninstall():
        entries.clear()
        plugins.entries_of.cache_clear()

    yield uninstall
    monkeypatch.undo()
    plugins.entries_of.cache_clear()


def on(texts):
    return f"evaluation.probes={json.dumps({'questions': {'texts': texts}})}"


def test_it_is_measured_stored_shown_and_part_of_comparability(recipe_folder, installed):
    base = json.loads(Path("base.yaml").read_text())
    Path("again.yaml").write_text(json.dumps(base | {"name": "again", "seed": 1}))
    for files, texts in ((["base.yaml", "again.yaml"], QUESTIONS), (["base.yaml"], QUESTIONS[:-1])):
        outcomes = execute.run(load(files, [on(texts)]), Path("results" if texts is QUESTIONS else "others"))
        assert [one.state for one in outcomes] == ["done"] * len(files), [one.error for one in outcomes]
    metric = alignbench.load_metrics("results/base").set_index("metric").loc["question_words"]
    assert metric["ci_low"] < metric["value"] < metric["ci_high"]
    assert (metric["n_scored"], metric["n_unscored"]) == (len(QUESTIONS), 0)
    (stored,) = Path("results/base").rglob("evaluations/*/metrics.json")
    record = json.loads(stored.read_text())
    assert record["comparability"]["questions"] == [QUESTIONS, 6]
    assert record["traits"]["question_words"]["condition"] == "questions"
    with pytest.raises(ComparabilityError, match="questions"):
        compare(["results/again", "others/base"], baseline="base")
    installed()
    headers = [
        section.header
        for section in document(compare("results", baseline="base")).sections
        if "Quality" in section.title
    ]
    assert headers[-1][-1] == "question_words"


def test_a_recipe_names_it_with_its_settings(recipe_folder, installed):
    [plain], [loaded] = load(["base.yaml"]), load(["base.yaml"], [on(QUESTIONS)])
    assert "probes" not in plain.recipe.resolved()["evaluation"]
    assert loaded.recipe.resolved()["evaluation"]["probes"] == {"questions": {"texts": QUESTIONS, "max_new_tokens": 6}}
    assert loaded.recipe.run_hash({}) != plain.recipe.run_hash({})
    Path("resolved.yaml").write_text(loaded.recipe.to_yaml())
    [read] = load(["resolved.yaml"])
    assert read.recipe == loaded.recipe


@pytest.mark.parametrize(
    ("probes", "said"),
    [
        ({"question": {}}, "expected one of questions, not question, did you mean 'questions'"),
        ({"neutral": {"texts": ["a"]}}, "expected one of questions, not neutral"),
        ({"questions": {}}, r"questions\.texts: Field required"),
        ({"questions": {"texts": QUESTIONS, "color": 1}}, r"questions\.color: "),
    ],
)
def test_what_cannot_be_is_refused(recipe_folder, installed, probes, said):
    with pytest.raises(RecipeError, match=said):
        load(["base.yaml"], [f"evaluation.probes={json.dumps(probes)}"])
