"""Checks of methods, scorers, metrics, probes and sources: each finds what it is there for."""

import importlib
import re
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import numpy as np
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
)
from fixtures.answers import Answers

from alignbench import plugins
from alignbench.evaluation.metrics.aggregate import NO_REPLICATES, SetStatistic
from alignbench.evaluation.metrics.metric import Metric, Sample
from alignbench.evaluation.probes.probe import Probe
from alignbench.evaluation.protocols import get_protocol
from alignbench.methods.base import Facts
from alignbench.records import Completion, Cost, Prompt
from datasets_prep.sources.base import Source


def fails(match):
    return pytest.raises(AssertionError, match=match)


CHANCE = np.random.default_rng(0)
"""Other numbers at each call, and the same in each run of these tests."""


@dataclass(frozen=True)
class Nudge:
    """Moves every weight a little; with a fault."""

    fault: str = ""
    """What is wrong."""

    facts: ClassVar[Facts] = Facts(architectures=frozenset({"causal"}), learns_from=frozenset({"prompts"}))

    def train(self, data, run):
        started = run.checkpoints / "started"
        if self.fault == "resume" and started.exists():
            return run.policy
        started.touch()
        reference = run.policy.frozen_copy()
        moved = {"still": [], "reference": [run.policy, reference]}.get(self.fault, [run.policy])
        with torch.no_grad():
            for weight in (one for policy in moved for one in policy.model.parameters()):
                weight += 0.1
                if self.fault == "chance":
                    weight.copy_(weight.roll(int(CHANCE.integers(len(weight))), 0))
        torch.ones(2, 3) @ torch.ones(3, 5)  # what its costs are of: 60 FLOPs
        backward = {"cost": 0.0, "too little": 15.0, "too much": 60.0}.get(self.fault, 30.0)
        cost = Cost(optimizer_steps=1, trained_tokens=10, backward_flops=backward)
        for step in (1, 2):
            told = None if self.fault == "policy" else run.policy
            n = run.budget_completions * step // (1 if self.fault == "budget" else 2)
            run.step_done(step + (self.fault == "step"), n, {"policy/loss": 1.0}, {"train": cost}, told)
        return Answers() if self.fault == "kind" else run.policy


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("step", r"told of the steps \[2, 3\] ..., expected every step once, from 1"),
        ("budget", r"told of \[16, 32\] ... 32 completions, .* do not pass the budget of 16"),
        ("cost", "the costs that step_done was told of have no backward_flops"),
        ("policy", "step_done was given no policy"),
        ("chance", "cut off at its last step and started again, it gave something else"),
        ("resume", "cut off at its last step and started again, it gave something else"),
        ("still", "no weight had moved after its first step"),
        ("reference", r"changed .*weight of the frozen copy of the policy.* bit for bit as it was"),
        ("too little", "told of costs of 30 FLOPs, and torch counted 60"),
        ("too much", "told of costs of 120 FLOPs, and torch counted 60"),
        ("kind", "gave a Answers, and facts.gives says 'language_model'"),
    ],
)
def test_a_method_with_a_fault(fault, said):
    with fails(f"Nudge.*{said}"):
        check_training(Nudge(fault))


def test_a_method_as_it_should_be():
    check_training(Nudge())


@dataclass(frozen=True)
class Undocumented:
    rate: float
    n: int = 2

    facts: ClassVar[Facts] = Facts(architectures=frozenset({"causal"}), longest_completion=lambda one: one.rate)

    def train(self, data, run):
        return run.policy


@dataclass(frozen=True)
class Documented:
    n: int = 2
    """A number."""

    facts: ClassVar[Facts] = Facts(architectures=frozenset())

    def train(self, data, run):
        return run.policy


def test_a_method_that_is_not_described(monkeypatch):
    monkeypatch.setitem(sys.modules, "elsewhere", importlib.import_module(__name__))
    entries = [
        EntryPoint(name.lower(), f"elsewhere:{name}", "alignbench.methods") for name in ("Undocumented", "Documented")
    ]
    monkeypatch.setattr(plugins, "entries_of", lambda group: tuple(one for one in entries if one.group == group))
    with fails(r"method undocumented: \['rate', 'n'\] lack a docstring"):
        check_method("undocumented")
    with fails("facts.architectures is empty"):
        check_method("documented")


class Scores:
    """A scorer by a function of prompts and texts."""

    def __init__(self, score, name="mine", fingerprint="a"):
        self.score, self.name, self.fingerprint = score, name, fingerprint


def each(score):
    return lambda prompts, texts: [score(text) for text in texts]


def by_place(prompts, texts):
    return [i / 9 if text else None for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("scorer", "said"),
    [
        (Scores(each(lambda text: 0.5), name=""), "its name is ''"),
        (Scores(each(lambda text: 0.5), fingerprint=None), "fingerprints"),
        (Scores(each(lambda text: 0.5), fingerprint="b"), "two settings have one fingerprint"),
        (Scores(lambda prompts, texts: [0.5]), "expected a list of 5 numbers or None"),
        (Scores(each(lambda text: float("nan"))), "got nan for 'you are a rude fool.', expected a finite float"),
        (Scores(each(lambda text: 1)), "got 1 for 'you are a rude fool.', expected a finite float"),
        (Scores(each(lambda text: -0.5)), "expected a judge's score between 0 and 1"),
        (Scores(each(lambda text: 0.0)), "got 0.0 for '', which cannot be scored; expected None"),
        (
            Scores(lambda prompts, texts: [i / 9 if text else None for i, text in enumerate(texts)]),
            "in a batch and .* each alone",
        ),
        (Scores(lambda prompts, texts: [0.5] * max(1, len(texts))), r"no completion has \[0.5\] for scores"),
    ],
)
def test_a_scorer_with_a_fault(scorer, said):
    other = Scores(each(lambda text: 0.4), fingerprint="b")
    with fails(said):
        check_scorer(scorer, is_judge=True, others=[other], unscored=[""])


def test_a_scorer_as_it_should_be():
    check_scorer(Scores(each(lambda text: 0.5 if text else None)), is_judge=True, unscored=[""])
    with fails("got -1.0"):
        check_scorer(Scores(each(lambda text: -1.0)), is_judge=True)
    check_scorer(Scores(each(lambda text: -1.0)))


def metric(**fields):
    return Metric(**{"name": "mine", "direction": "none"} | fields)


def share(sample):
    return SetStatistic(float(np.mean([not text for own in sample.texts for text in own])), NO_REPLICATES)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"of_prompts": lambda sample: [1.0]}, r"got \(1,\) values, expected \(60,\) or \(60, 4\)"),
        ({"of_prompts": lambda sample: np.full(60, np.inf)}, "infinite value"),
        ({"of_prompts": lambda sample: np.full(60, np.nan)}, "measured nothing at all of 60 prompts"),
        ({"of_prompts": lambda sample: np.full(60, 2.0), "between_0_and_1": True}, "got 2 to 2, and it says"),
        ({"of_prompts": lambda sample: np.arange(len(sample.prompts))}, "another value among other prompts"),
        ({"of_set": lambda sample: SetStatistic(None, reason="too few")}, r"no value of 60 prompts \(too few\)"),
        ({"of_set": lambda sample: SetStatistic(1.0, (1.0,))}, "got 1 replicates, expected one for each of 20 groups"),
        ({"of_set": lambda sample: SetStatistic(float(len(sample.prompts)), (60.0,) * 20)}, "replicate .* is 60.0"),
        ({"of_set": lambda sample: SetStatistic(7.0), "between_0_and_1": True}, "got 7 to 7"),
        ({}, "neither of_prompts nor of_set"),
        ({"of_set": share, "needs": "neutral texts"}, "check it with its probe"),
        ({"of_set": share, "applies": lambda protocol: False}, "applies to no protocol"),
    ],
)
def test_a_metric_with_a_fault(wrong, said):
    with fails(said):
        check_metric(metric(**wrong))


def test_what_is_no_metric():
    check_metric(metric(of_set=share))
    with fails("expected a Metric"):
        check_metric(["words"])


class Lengths(Probe):
    metrics: ClassVar = (
        metric(of_prompts=lambda sample: [[len(t) for t in own] for own in sample.texts], condition="x"),
    )

    def conditions(self):
        return {"x": 1}

    def measure(self, policy, reference, scorers, *, seed, batch_prompts):
        asked = [Prompt(str(i), "the dog") for i in range(4)]
        drawn = policy.generate(asked, get_protocol("quickstart-v1").decoding, 1, (seed,))
        return Sample(asked, drawn, get_protocol("quickstart-v1"), np.arange(4), np.zeros((4, 1)))


class ByBatch(Lengths):
    """with one prompt at a time"""

    def measure(self, policy, reference, scorers, *, seed, batch_prompts):
        measured = super().measure(policy, reference, scorers, seed=seed, batch_prompts=batch_prompts)
        return Sample(measured.prompts, [*measured.completions[:3], Completion("3", 0, "x" * batch_prompts, (), "eos")],
                      measured.protocol, measured.groups, measured.log_perplexity)  # fmt: skip


class WithoutGroups(Lengths):
    """measure gave no `groups`"""

    def measure(self, *_, **__):
        return 1.0


class NotJson(Lengths):
    """NotJson.conditions: Object of type set is not JSON serializable"""

    def conditions(self):
        return {"x": {1}}


class OtherCondition(Lengths):
    """mine has the condition 'x', expected one of {}"""

    def conditions(self):
        return {}


class OfScores(Lengths):
    """mine needs scores, which a probe's metric cannot"""

    metrics: ClassVar = (metric(of_prompts=share, needs="scores"),)


class Nothing(Lengths):
    """its `metrics` are empty"""

    metrics: ClassVar = ()


@pytest.mark.parametrize("kind", Lengths.__subclasses__(), ids=lambda kind: kind.__name__)
def test_a_probe_with_a_fault(kind):
    with fails(re.escape(kind.__doc__)):
        check_probe(kind(), Answers())


def test_a_probe_as_it_should_be():
    [found] = check_probe(Lengths(), Answers())
    assert found.value > 8


ROWS = [{"id": "a", "prompt": "one"}, {"id": "b", "prompt": "two"}]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (object(), "expected a datasets_prep.sources.base.Source"),
        (Source(lambda _: ROWS, gives=frozenset()), "`gives` is empty"),
        (Source(lambda _: []), "it has no rows"),
        (Source(lambda _: ["one"]), r"got \['one'\] among the rows"),
        (Source(lambda _: [{"prompt": {1}}]), "expected what JSON can hold"),
        (Source(lambda _: [{"id": str(np.random.default_rng().random()), "prompt": "x"}]), "gave other rows"),
        (Source(lambda _: [{"prompt": " "}]), "no prompt has a text"),
        (Source(lambda _: ROWS, gives=frozenset({"texts"})), "a row lacks `text`"),
    ],
)
def test_a_source_with_a_fault(source, said):
    with fails(said):
        check_source(source)


def test_a_source_as_it_should_be():
    assert [one.id for one in check_source(Source(lambda _: ROWS))] == ["a", "b"]


def test_a_heavy_import(tmp_path, monkeypatch):
    (tmp_path / "trl.py").write_text("")
    (tmp_path / "heavy.py").write_text("import trl")
    monkeypatch.syspath_prepend(tmp_path)
    with fails(r"heavy imports \['trl'\], expected them inside the functions"):
        check_imports("json", "heavy")
    with fails("No module named 'not_there'"):
        check_imports("not_there")
