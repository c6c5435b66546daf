"""A metric of an installed package is measured, stored, shown and named like those that are built in."""

import importlib
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

import alignbench
from alignbench import plugins
from alignbench.comparison.compare import compare
from alignbench.comparison.document import document
from alignbench.errors import AlignbenchError, UsageError
from alignbench.evaluation.evaluator import evaluate
from alignbench.evaluation.metrics.aggregate import SetStatistic
from alignbench.evaluation.metrics.metric import Metric
from alignbench.evaluation.protocols import EvalProtocol
from alignbench.recipe.sweeps import CriterionSettings
from alignbench.records import Cost, Decoding, Prompt

SOURCE = Path(alignbench.__file__).parent


def words(sample):
    """Logarithm of the number of words of each completion, and one."""
    return [[np.log(1 + len(text.split())) for text in own] for own in sample.texts]


vocabulary = (
    Metric(name="words", direction="higher", of_prompts=words, scale="log", section="length"),
    Metric(name="n_texts", direction="none", of_set=lambda sample: SetStatistic(float(len(sample.completions)))),
    Metric(name="best_score", direction="lower", needs="scores", of_prompts=lambda sample: sample.scores.min(axis=1)),
    Metric(name="hidden", direction="lower", of_prompts=words, applies=lambda protocol: protocol.as_dexperts),
)
again = Metric(name="self_bleu", direction="lower", of_prompts=words)


@pytest.fixture
def installed(monkeypatch):
    """Installs metrics of this file under a name, by entry points; with no name, none is installed any longer."""

    def install(*names):
        entries = [EntryPoint(name, f"elsewhere:{name}", "alignbench.metrics") for name in names]
        monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == "alignbench.metrics" else [])
        plugins.entries_of.cache_clear()

    monkeypatch.setitem(sys.modules, "elsewhere", importlib.import_module(__name__))
    yield install
    monkeypatch.undo()
    plugins.entries_of.cache_clear()


@pytest.fixture
def report(scripted, function_scorer):
    """The report of a policy with two completions of two prompts."""

    def measure():
        texts = {"a": ["kind rude", "kind"], "b": ["", "rude rude rude"]}
        protocol = EvalProtocol("double", 2, Decoding(max_new_tokens=8), "nowhere", 2)
        judge = function_scorer("judge", lambda text: text.count("rude") / 4)
        prompts = [Prompt(name, name) for name in texts]
        policy = scripted(texts)
        return evaluate(policy, policy, prompts, protocol, {"judge": judge}, seed=0, batch_prompts=2)

    return measure


def test_it_is_measured_by_hand(installed, report):
    before = report()
    installed("vocabulary")
    after = report()
    assert [m for m in after.metrics if m.metric in {one.metric for one in before.metrics}] == list(before.metrics)
    found = {str(metric.key): metric for metric in after.metrics}
    # a: log 3 and log 2, b: log 1 and log 4; the exponential of the mean of their means.
    assert found["words"].value == pytest.approx((3 * 2 * 1 * 4) ** (1 / 4))
    assert after.prompt_values["words"].tolist() == pytest.approx([np.log(6) / 2, np.log(4) / 2])
    assert (found["n_texts"].value, found["n_texts"].replicates) == (4.0, None)
    assert found["best_score@judge"].value == 0.0
    assert (found["best_score@judge"].n_scored, found["words"].n_scored) == (2, 4)
    assert "hidden" not in found


def test_it_can_decide_a_sweep(installed):
    with pytest.raises(ValueError, match="one of toxicity_mean, "):
        CriterionSettings(metric="words")
    installed("vocabulary")
    assert str(CriterionSettings(metric="words", at_most={"best_score@judge": 0.5})) == (
        "the highest words, best_score@judge at most 0.5"
    )
    with pytest.raises(ValueError, match="scorer of this metric"):
        CriterionSettings(metric="best_score")


def test_a_name_that_is_taken_is_refused(installed, report):
    installed("again")
    with pytest.raises(UsageError, match="the entry point 'elsewhere:again': two metrics are called 'self_bleu'"):
        report()


@pytest.mark.parametrize("given", [None, 0.5, [0.5], [0.5] * 3, [[0.5]] * 2, [[[0.5, 0.5]] * 2]])
def test_values_that_do_not_fit_the_sample_are_refused_by_name(installed, report, monkeypatch, given):
    odd = Metric(name="odd", direction="lower", of_prompts=lambda sample: given)
    name = f"odd{len(str(given))}"  # one of its own, as what is installed is read once
    monkeypatch.setitem(globals(), name, odd)
    installed(name)
    with pytest.raises(AlignbenchError, match=r"metric odd: got values of shape \(.*\), expected \(2,\).*\(2, 2\)"):
        report()


@pytest.mark.parametrize("options", [{"name": "a@b"}, {"of_prompts": words, "of_set": words}])
def test_a_metric_that_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match="metric"):
        Metric(**{"name": "words", "direction": "none"} | options)


def quality(results):
    return {name: section.rows for section in document(compare(results)).sections for name in section.header
            if section.title.startswith("Quality")}  # fmt: skip


def test_tables_show_it_even_where_the_package_is_not_installed(installed, report, tmp_path, begin):
    installed("vocabulary")
    for recipe in ("untrained", "ppo"):
        with begin(tmp_path, recipe) as run:
            run.write_prompts((), {})
            run.write_evaluation(report(), {"scorers": {"judge": "j1"}})
            run.complete(cost=Cost())
    shown, frame = quality(tmp_path), alignbench.load_metrics(tmp_path)
    words = [name for name in shown if name in ("completion_tokens", "words", "distinct_1", "refusal_rate")]
    assert words == ["completion_tokens", "words", "distinct_1", "refusal_rate"]
    assert list(shown)[-2:] == ["best_score@judge", "n_texts"]
    installed()
    assert list(quality(tmp_path)) == list(shown)
    assert alignbench.load_metrics(tmp_path).equals(frame)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("neutral_perplexity", {"evaluation/probes/neutral.py"}),
        ("self_bleu", {"evaluation/metrics/self_bleu.py"}),
        ("rep_4", {"evaluation/metrics/degeneration.py"}),
        # Beside its own file, what the flag and the word on reward hacking call degenerate.
        ("copy_rate", {"evaluation/metrics/degeneration.py", "statistics/thresholds.py"}),
        ("expected_max_toxicity", {"evaluation/metrics/toxicity.py"}),
        ("corpus_distinct_", {"evaluation/metrics/diversity.py"}),
        ("dexperts_perplexity", {"evaluation/metrics/dexperts.py"}),
    ],
)
def test_a_metric_is_named_in_one_file(name, where):
    files = [path for path in SOURCE.rglob("*.py") if name in path.read_text(encoding="utf-8")]
    assert {path.relative_to(SOURCE).as_posix() for path in files} == where
