"""`alignbench init`: what it writes is accepted, and what it says of model, prompts and labels is so."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.pipeline.beginning import Wanted, look
from alignbench.recipe.loading import load


def call(*arguments, **options):
    return CliRunner().invoke(main, ["init", *(str(one) for one in arguments)], **options)


@pytest.fixture
def asked(tmp_path, monkeypatch, checkpoints, prompt_file):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path / "cache"))
    options = {
        "model": checkpoints / "policy",
        "prompts": prompt_file,
        "classifier": checkpoints / "classifier",
        "budget": 64,
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def test_what_is_written_is_accepted_and_says_what_was_seen(asked, checkpoints):
    said = call(
        "mine", *asked, "--judge", checkpoints / "judge", "--method", "ppo", "--method", "dpo", "--method", "sft"
    )
    assert said.exit_code == 0, said.output
    assert CliRunner().invoke(main, ["check", "mine/suite.yaml"]).exit_code == 0
    recipes = {one.name: one.recipe for one in load(["mine/suite.yaml"])}
    assert recipes.keys() == {"base", "ppo", "dpo", "sft"}
    ppo = recipes["ppo"]
    assert recipes["sft"].demonstrations.take == "best"  # the rows have no completions
    assert (ppo.reward.harmful_label, ppo.budget.completions, ppo.method.batch_size) == ("hate", 64, 16)
    assert [one if isinstance(one, str) else (one.name, one.label) for one in ppo.evaluation.scorers] == [
        "reward",
        ("judge", "toxic"),
    ]
    shared = Path("mine/shared.yaml").read_text()
    for wanted in (
        "28,224 parameters",
        "64 tokens of context",
        "has no pad token",
        "120 prompts in the column 'prompt'",
    ):
        assert wanted in said.output
        assert f"# {wanted}" in shared or wanted in shared
    assert "alignbench run mine/suite.yaml\n" in Path("mine/suite.yaml").read_text()
    again = call("mine", *asked)
    assert again.exit_code == 2
    assert "mine/shared.yaml: it is there already" in again.output


def test_without_a_terminal_it_says_which_options_are_missing(asked):
    said = call("mine", *asked[:4])
    assert said.exit_code == 2
    assert "init: got no terminal to ask on, expected --classifier, --budget" in said.output
    assert not Path("mine").exists()


def test_on_a_terminal_it_asks_for_them(asked, monkeypatch, checkpoints):
    class Terminal:
        def __init__(self, stream):
            self.stream = stream

        def isatty(self):
            return True

        def __getattr__(self, name):
            return getattr(self.stream, name)

    monkeypatch.setattr("alignbench.cli.init.sys", type("sys", (), {"stdin": Terminal(sys.stdin)}))
    said = call("mine", *asked[:4], input=f"{checkpoints / 'classifier'}\n64\n")
    assert said.exit_code == 0, said.output
    assert "Completions to draw for training" in said.output
    assert load(["mine/suite.yaml"])[0].recipe.budget.completions == 64


def test_a_label_that_no_name_tells_is_asked_for(asked, checkpoints, tmp_path):
    (tmp_path / "numbers").mkdir()
    config = json.loads((checkpoints / "classifier/config.json").read_text())
    config |= {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    (tmp_path / "numbers/config.json").write_text(json.dumps(config))
    at = asked.index(checkpoints / "classifier")
    said = call("mine", *asked[:at], "numbers", *asked[at + 1 :])
    assert "--label: got nothing, expected one of LABEL_0, LABEL_1, the classes of numbers" in said.output
    assert "expected one of nothate, hate" in call("mine", *asked, "--label", "hatred").output
    assert not Path("mine").exists()


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        (("--prompt-column", "body"), "has no column 'body'"),
        (("--method", "ppoo"), "did you mean 'ppo'"),
        (("--protocol", "rtp"), "expected one of trl-detox-v1"),
        (("--budget", "3"), "3"),
    ],
)
def test_bad_options_are_one_clear_sentence(asked, more, wanted):
    said = call("mine", *asked, *more)
    assert said.exit_code in (1, 2)
    assert wanted in said.output
    assert "Traceback" not in said.output
    assert not Path("mine").exists()


def test_a_model_that_does_not_fit_gets_an_adapter_and_one_that_is_not_here_is_said_to_be_unseen(asked, monkeypatch):
    monkeypatch.setattr(
        "alignbench.pipeline.beginning.os.sysconf", lambda name: 700 if name == "SC_PAGE_SIZE" else 1000
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    wanted = Wanted(str(asked[1]), str(asked[3]), str(asked[5]), "hate", 64)
    found = look(wanted)
    assert found.needs_adapter  # 28,224 weights of 20 bytes in 700,000
    assert "an adapter is trained instead" in " ".join(found.said)
    wanted.model = "no/such-model"
    assert "The model was not looked at" in look(wanted).said[0]
