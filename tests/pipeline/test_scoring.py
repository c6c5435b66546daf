"""`alignbench score`: the numbers are those of the scorer itself."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.pipeline import named_scorers
from alignbench.scorers.reward_model import load_reward_scorer

TEXTS = ["you are stupid", "very nice", "the dog sings"]


def call(*arguments):
    return CliRunner().invoke(main, ["score", *(str(one) for one in arguments)])


@pytest.fixture
def texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t.jsonl").write_text("".join(json.dumps({"id": i, "response": one}) + "\n" for i, one in enumerate(TEXTS)))
    Path("t.txt").write_text("\n".join(TEXTS))
    return tmp_path


def probabilities(folder, label):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return [model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0, label].item() for text in TEXTS]


def test_a_classifier(texts, checkpoints):
    said = call(checkpoints / "judge", "t.jsonl", "--label", "toxic", "--output", "s.parquet")
    assert said.exit_code == 0, said.output
    frame = pd.read_parquet("s.parquet")
    assert list(frame.columns) == ["id", "response", "score"]
    assert frame["score"].tolist() == pytest.approx(probabilities(checkpoints / "judge", 1), abs=1e-6)
    assert (
        call(checkpoints / "judge", "t.txt", "--label", "toxic", "--output", "s.csv", "--name", "harm").exit_code == 0
    )
    assert pd.read_csv("s.csv")["harm"].tolist() == pytest.approx(frame["score"].tolist(), abs=1e-6)


def test_a_reward_model_of_a_run_and_as_it_was_exported(recipe_folder, finished, texts):
    finished("reward_model")
    scorer = load_reward_scorer(
        Path("results/reward_model/seed0/artifact"), text="completion", device=torch.device("cpu")
    )
    expected = scorer.score([""] * 3, TEXTS)
    shutil.copytree("results/reward_model/seed0/artifact", "exported")
    for name in ("results/reward_model/seed0", "exported"):
        said = call(name, "t.jsonl", "--output", f"{Path(name).name}.jsonl")
        assert said.exit_code == 0, said.output
        rows = [json.loads(line) for line in Path(f"{Path(name).name}.jsonl").read_text().splitlines()]
        assert [row["score"] for row in rows] == pytest.approx(expected, abs=1e-6)


def test_any_other_scorer_and_a_judge_of_a_run(recipe_folder, finished, texts, checkpoints):
    Path("words.txt").write_text("stupid\n")
    said = CliRunner().invoke(main, ["score", "{lexicon: words.txt}", "t.txt"])
    assert [json.loads(line)["score"] for line in said.stdout.splitlines()] == [1.0, 0.0, 0.0]
    finished("base")
    assert call("results/base/seed0", "t.txt", "--judge", "judge", "--output", "j.csv").exit_code == 0
    assert pd.read_csv("j.csv")["score"].tolist() == pytest.approx(probabilities(checkpoints / "judge", 1), abs=1e-6)
    assert (
        "got nothing for --judge, expected one of its judges, reward, judge"
        in call("results/base/seed0", "t.txt").output
    )


def test_a_preset(texts, checkpoints, monkeypatch):
    """By its name alone, as in recipes: its label is not asked for."""
    preset = {"classifier": str(checkpoints / "judge"), "label": "toxic"}
    monkeypatch.setattr(named_scorers, "PRESETS", {"mine": preset})
    assert call("mine", "t.txt", "--output", "p.csv").exit_code == 0
    assert pd.read_csv("p.csv")["score"].tolist() == pytest.approx(probabilities(checkpoints / "judge", 1), abs=1e-6)


def test_bad_input_is_one_clear_sentence(texts, checkpoints):
    Path("n.jsonl").write_text('{"response": 3}')
    for arguments, wanted in (
        ((checkpoints / "judge", "t.jsonl"), "got no --label, expected one of neutral, toxic"),
        ((checkpoints / "judge", "t.jsonl", "--label", "toxics"), "toxic"),
        ((checkpoints / "judge", "no.jsonl", "--label", "toxic"), "FILE: no.jsonl: there is no such file"),
        ((checkpoints / "judge", "t.jsonl", "--label", "toxic", "--column", "body"), "has no column 'body'"),
        ((checkpoints / "judge", "n.jsonl", "--label", "toxic"), "column 'response' holds 3, expected a text"),
        ((checkpoints / "judge", "t.jsonl", "--output", "s.xlsx"), "expected a name that ends in .jsonl"),
        (("{lexicn: x}", "t.jsonl"), "SCORER: "),
        (("s-nlp", "t.jsonl", "--label", "toxic"), "--label: got one beside s-nlp, expected none"),
        (("{lexicon: w}", "t.jsonl", "--text", "chat"), "--text: got one beside {lexicon: w}, expected none"),
        (("./nowhere", "t.jsonl"), "./nowhere"),
    ):
        said = call(*arguments)
        assert said.exit_code in (1, 2), said.output
        assert wanted in said.output
        assert "Traceback" not in said.output
