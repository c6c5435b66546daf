"""Drafts, criticisms and revisions: what is left out and counted, what is learned, and what the held-out judge says."""

import json
import logging
from pathlib import Path

import pytest
import torch

from alignbench.embedded import grammar
from alignbench.errors import DataError, RecipeError
from alignbench.pipeline import execute
from alignbench.pipeline.build import make_parts
from alignbench.pipeline.revisions import compare_with_drafts
from alignbench.pipeline.training_data import build_training_data
from alignbench.recipe.feedback import read_principles
from alignbench.recipe.loading import load

RECIPE = """\
name: constitutional
method: {name: sft, batch_size: 8}
policy: {model: embedded/policy}
reward: {classifier: embedded/classifier, label: nothate}
data: {prompts: embedded, max_prompts: 200}
pairs: {completions_per_prompt: 2, completion_tokens: [16, 16]}
budget: {completions: 80}
revisions: {llm_judge: embedded/critic, principles: principles.txt}
evaluation:
  protocol: quickstart-v1
  n_prompts: 8
  evaluate_every: 0
  scorers: [reward, {name: judge, classifier: embedded/judge, label: toxic}]
hardware: {device: cpu, threads: 1}
"""
PRINCIPLES = "# of the house\n1. Nobody is insulted.\n\n2. Everybody is calm.\n3. Nothing is obscene.\n"
SAYS = """\
from alignbench.embedded.critic import answer as critic
N = []
def answer(question):
    if "<criticism>" not in question:
        {critique}
        return critic(question)
    N.append(question)
    return {revision}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a cache, where drafts are drawn once."""
    return tmp_path_factory.mktemp("revisions")


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    Path("constitutional.yaml").write_text(RECIPE)
    Path("principles.txt").write_text(PRINCIPLES)


def built(*sets):
    [loaded] = load(["constitutional.yaml"], sets)
    parts = make_parts(loaded.recipe, {}, torch.device("cpu"))
    return build_training_data(loaded.recipe, parts.policy, parts.labeller, parts.data, []), parts.policy


def test_revisions_are_imitated_and_no_insult_is_left():
    found, policy = built()
    statistics, *rows = found.told["revisions"]
    known = statistics["statistics"]
    revised = [row for row in rows if row["revision"] is not None]
    assert known["n_drafts"] == len(rows) > 70
    assert known["n_revisions"] == len(revised) == len(found.data.demonstrations) > 20
    assert known["n_copies"] == len(rows) - len(revised)  # what had nothing to criticise came back as it was
    assert all(grammar.is_toxic(row["draft"]) and not grammar.is_toxic(row["revision"]) for row in revised)
    assert not any(grammar.is_toxic(row["draft"]) for row in rows if row["left_out"])
    for one, row in zip(found.data.demonstrations, revised, strict=True):
        assert one.completion.text == row["revision"] == " " + row["steps"][0]["revision"]
        assert one.completion.token_ids[-1] in policy.eos_ids
    assert {row["steps"][0]["principle"] for row in rows} == {1, 2, 3}
    assert all("insults somebody" in row["steps"][0]["criticism"] for row in revised)


def test_pairs_prefer_the_revision_to_its_draft():
    shown, pairs = built()[0], built("method={name: dpo}")[0]
    assert [one.chosen for one in pairs.data.pairs] == [one.completion for one in shown.data.demonstrations]
    assert all(grammar.is_toxic(one.rejected.text) for one in pairs.data.pairs)
    assert {name.partition(" ")[0] for name in pairs.pieces} == {"pairs", "revisions"}
    assert pairs.data.drawn_completions == 80


def test_a_turn_goes_on_from_the_text_before_it(folder):
    (folder / "critic.py").write_text(SAYS.format(critique="pass", revision="f'calm words number {len(N)}'"))
    found, _ = built("revisions.llm_judge=critic.py", "revisions.turns=2")
    rows = [row for row in found.told["revisions"][1:] if row["revision"]]
    assert all(row["revision"].strip() == row["steps"][1]["revision"] != row["steps"][0]["revision"] for row in rows)
    assert len({tuple(step["principle"] for step in row["steps"]) for row in rows}) > 3  # each turn draws its own


@pytest.mark.parametrize(
    ("revision", "why"),
    [
        ("'  '", "n_empty"),
        ("'\"\"'", "n_empty"),
        ("\"I'm sorry, but I can't.\"", "n_refusals"),
        ("'As an AI, no.'", "n_refusals"),
        ("'“I\u2019m sorry, but I can\u2019t.”'", "n_refusals"),
        ("'“”'", "n_empty"),
        ("question.split('<text>')[1].split('</text>')[0].upper()", "n_copies"),
        ("1 / 0", "n_unanswered"),
    ],
)
def test_what_is_no_revision_is_counted_and_left_out(folder, revision, why):
    every_other = f"({revision}) if len(N) % 2 else 'please calm down'"
    (folder / "critic.py").write_text(SAYS.format(critique="pass", revision=every_other))
    found, _ = built("revisions.llm_judge=critic.py")
    known = found.told["revisions"][0]["statistics"]
    assert known["n_revisions"] == len(found.data.demonstrations) > 0
    assert known[why] > 20
    assert known["n_drafts"] == known["n_revisions"] + sum(
        known[name] for name in ("n_unanswered", "n_empty", "n_refusals", "n_copies", "n_too_long")
    )


def test_none_left_stops_the_run(folder):
    (folder / "critic.py").write_text(SAYS.format(critique="return 1 / 0", revision="'calm'"))
    with pytest.raises(DataError, match=r"none of \d+ drafts has a revision \(\d+ unanswered\); try another model"):
        built("revisions.llm_judge=critic.py")


def test_a_run_says_what_the_held_out_judge_finds():
    [outcome] = execute.run(load(["constitutional.yaml"]), Path("results"))
    assert outcome.state == "done", outcome.error
    said, known, *rows = map(json.loads, (outcome.path / "revisions.jsonl").read_text().splitlines())
    assert said["judges"]["judge"]["revision"] < 0.1 < 0.9 < said["judges"]["judge"]["draft"]
    assert said["judges"]["judge"]["high"] < 0
    assert len(rows) == known["statistics"]["n_drafts"]


class Scores:
    """Scores a text by a table."""

    def __init__(self, table):
        self.table = table

    def score(self, prompts, completions):
        return [self.table[text] for text in completions]


def test_the_comparison_with_drafts_by_hand(caplog):
    rows = [
        {"prompt": "p", "draft": "a", "revision": "b"},
        {"prompt": "p", "draft": "a", "revision": "c"},
        {"prompt": "q", "draft": "c", "revision": "b"},
        {"prompt": "q", "draft": "d", "revision": "b"},  # without a score
        {"prompt": "r", "draft": "a", "revision": None},
    ]
    judge = Scores({"a": 0.9, "b": 0.1, "c": 0.4, "d": None})
    with caplog.at_level(logging.WARNING):
        found = compare_with_drafts(rows, {"judge": judge})["judge"]
        # Differences by prompt: p (-0.8 - 0.5) / 2 = -0.65, q -0.3; their mean -0.475, standard error 0.175.
        assert found == {
            "draft": pytest.approx(2.2 / 3), "revision": pytest.approx(0.2), "difference": pytest.approx(-0.475),
            "high": pytest.approx(-0.475 + 6.313752 * 0.175, abs=1e-6), "n_prompts": 2,
        }  # fmt: skip
    assert "revisions are NOT less toxic than drafts by the judge judge: 0.200 against 0.733" in caplog.text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("2. a\n", "numbered from 1"),
        ("1. a\n3. b\n", "'3. b'"),
        ("a\n", "numbered"),
        ("1.\n", "num"),
        ("#\n", "has none"),
    ],
)
def test_principles_are_numbered(tmp_path, text, problem):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(ValueError, match=problem):
        read_principles(str(tmp_path / "p.txt"))
    (tmp_path / "p.txt").write_text(PRINCIPLES)
    assert read_principles(str(tmp_path / "p.txt"))[1] == "Everybody is calm."


@pytest.mark.parametrize(
    ("sets", "problem"),
    [
        (["revisions.principles=null"], "revisions.principles: got nothing, expected a file of numbered principles"),
        (["revisions.principles=no.txt"], 'revisions.principles: got "no.txt", expected a file beside the recipe'),
        (["method={name: ppo}"], "revisions: got a block, and the method ppo, .*demonstrations or preference pairs"),
        (["demonstrations={take: best}"], "demonstrations: got a block beside `revisions`, expected it left out"),
        (["feedback={llm_judge: x}"], "revisions: got a block beside `feedback`, expected one of the two"),
        (["reward=null", "evaluation.scorers=[s-nlp]"], "reward: got nothing, expected a reward block"),
    ],
)
def test_problems_name_the_key(sets, problem):
    with pytest.raises(RecipeError, match=problem):
        load(["constitutional.yaml"], sets)
