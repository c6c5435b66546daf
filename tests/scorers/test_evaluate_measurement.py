"""Measurements of the `evaluate` library, by a script: numbers in every shape, and what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conformance import check_scorer

from alignbench.errors import ScorerError
from alignbench.recipe.loading import load
from alignbench.scorers.base import Place
from alignbench.scorers.evaluate_measurement import MeasurementJudge, MeasurementReward

SCRIPT = """\
import datasets
import evaluate


class Rude(evaluate.Measurement):
    def _info(self):
        features = datasets.Features({"ARGUMENT": datasets.Value("string")})
        return evaluate.MeasurementInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, ARGUMENT):
        shares = [sum(w == "rude" for w in t.split()) / len(t.split()) if t.split() else float("nan") for t in ARGUMENT]
        return RESULT
"""
TEXTS = ["you are rude", "", "rude rude", "thank you"]
SHARES = [1 / 3, None, 1.0, 0.0]
PER_TEXT = '{"rude": shares}'
LABELLED = '{"rude": [[{"label": "no", "score": 1 - s}, {"label": "yes", "score": s}] for s in shares]}'
OF_ALL = '{"rude": {"mean": sum(shares) / len(shares)}}'


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Writes a measurement of this name."""
    import evaluate

    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}

    def write(result=PER_TEXT, name="rude", argument="predictions", words=False):
        source = SCRIPT.replace("ARGUMENT", argument).replace("RESULT", result)
        if words:
            source = source.replace('datasets.Value("string")', 'datasets.Sequence(datasets.Value("string"))')
            source = source.replace("t.split()", "t")
        (tmp_path / f"{name}.py").write_text(source)
        return str(tmp_path / f"{name}.py")

    yield write
    for module in {*sys.modules} - before:
        if module.startswith("evaluate_modules"):
            del sys.modules[module]


def place(text="completion"):
    return Place("evaluation.scorers: rude", "rude", torch.device("cpu"), str, " ", text)


def judge(script, kind=MeasurementJudge, text="completion", **settings):
    return kind(evaluate_measurement=script, **settings).load(place(text))


@pytest.mark.parametrize(
    ("written", "settings"),
    [
        ({}, {}),
        ({"result": LABELLED}, {"evaluate_result": "rude.yes"}),
        ({"result": LABELLED}, {"evaluate_result": "rude.no", "evaluate_complement": True}),
        ({"result": OF_ALL}, {"evaluate_result": "rude.mean"}),
        ({"argument": "data"}, {"evaluate_argument": "data"}),
        ({"words": True}, {"evaluate_words": True}),
    ],
)
def test_numbers_in_every_shape(script, written, settings):
    scores = judge(script(**written), **settings).score([""] * 4, TEXTS)
    assert scores == [None if share is None else pytest.approx(share) for share in SHARES]


def test_the_prompt_is_read_on_request_and_a_reward_is_the_complement(script):
    file = script()
    assert judge(file, text="prompt_and_completion").score(["rude"], ["you"]) == [0.5]
    assert judge(file, MeasurementReward, "prompt_and_completion").score(["rude"], ["rude you"]) == [0.5]


def test_it_is_a_scorer(script):
    file = script()
    constant = script("{'rude': [0.5] * len(shares)}", "other")
    others = [judge(file, evaluate_complement=True), judge(constant, evaluate_result="rude")]
    check_scorer(judge(file), is_judge=True, others=others, unscored=[""])


@pytest.mark.parametrize(
    ("result", "settings", "problem"),
    [
        (
            PER_TEXT,
            {"evaluate_result": "rud"},
            r"evaluate_result: got 'rud', .*expected one of rude, did you mean 'rude'",
        ),
        (LABELLED, {}, "evaluate_result: got .* at rude, expected a number for each text"),
        (LABELLED, {"evaluate_result": "rude.maybe"}, "got 'maybe', .* expected one of no, yes"),
        ("1 / 0", {}, "evaluate_measurement: it raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_problem_names_its_key(script, result, settings, problem):
    with pytest.raises(ScorerError, match=rf"evaluation.scorers: rude\.{problem}|{problem}"):
        judge(script(result), **settings).score([""] * 2, ["you", "rude"])


def test_what_is_no_measurement_is_refused(script, tmp_path):
    with pytest.raises(ScorerError, match=r"evaluate_measurement: got 'no_such', .*cannot be loaded"):
        judge("no_such")
    file = Path(script(name="metric"))
    file.write_text(file.read_text().replace("evaluate.Measurement", "evaluate.Metric"))
    with pytest.raises(ScorerError, match="cannot be loaded: TypeError"):
        judge(str(file))


def test_a_recipe_is_the_script_that_it_names(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script()
    (tmp_path / "r.yaml").write_text(
        "name: r\nmethod: {name: untrained}\npolicy: {model: embedded/policy}\ndata: {prompts: embedded}\n"
        "evaluation: {protocol: quickstart-v1, scorers: [{name: rude, evaluate_measurement: rude.py}]}\n"
    )
    [first] = load(["r.yaml"])
    entry = first.recipe.evaluation.scorers[0]
    assert entry.scorer(place()).score([""], ["rude"]) == [1.0]
    script('{"rude": [1.0] * len(shares)}')
    [second] = load(["r.yaml"])
    assert second.run_hash != first.run_hash
    with pytest.raises(ScorerError, match="the script has changed since the recipe was read"):
        entry.scorer(place())
    (tmp_path / "moved").mkdir()
    for name in ("rude.py", "r.yaml"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    [moved] = load(["moved/r.yaml"])
    assert moved.run_hash == second.run_hash


def test_nobody_else_pays_for_the_library():
    code = "import sys, alignbench.scorers.evaluate_measurement; assert not {'evaluate', 'torch'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
