"""Pairs by the word of a model: what it prefers, its agreement with the classifier, its position bias, chance."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from alignbench.embedded import grammar
from alignbench.errors import DataError, RecipeError, TrainingError
from alignbench.pipeline import execute
from alignbench.pipeline.build import make_parts
from alignbench.pipeline.feedback import ALPHA, agreement, require_agreement
from alignbench.pipeline.training_data import build_training_data
from alignbench.recipe.loading import load
from alignbench.records import Completion, PreferencePair, Prompt

RECIPE = """\
name: rlaif
method: {name: dpo, batch_size: 8, learning_rate: 1.0e-4}
policy: {model: embedded/policy}
reward: {classifier: embedded/classifier, label: nothate}
data: {prompts: embedded, max_prompts: 200}
pairs: {completions_per_prompt: 4, completion_tokens: [16, 16]}
budget: {completions: 160}
evaluation: {protocol: quickstart-v1, n_prompts: 8, evaluate_every: 0, scorers: [reward]}
hardware: {device: cpu, threads: 1}
"""
BY_CHANCE = "import hashlib\ndef answer(q):\n    return 'AB'[hashlib.sha256(q.encode()).digest()[0] % 2]\n"
UPSIDE_DOWN = (
    "from alignbench.embedded import critic\n"
    "def answer(q):\n    return {'A': 'B', 'B': 'A'}.get(critic.answer(q), 'tie')\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a cache, where completions are drawn once."""
    return tmp_path_factory.mktemp("feedback")


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)


def built(*sets):
    import torch

    Path("rlaif.yaml").write_text(RECIPE)
    [loaded] = load(["rlaif.yaml"], ["feedback={llm_judge: embedded/critic}", *sets])
    parts = make_parts(loaded.recipe, {}, torch.device("cpu"))
    return build_training_data(loaded.recipe, parts.policy, parts.labeller, parts.data, [])


@pytest.mark.parametrize("compare", ["pairwise", "listwise", "graded"])
def test_the_less_harmful_one_is_preferred(compare):
    """The critic knows the truth of the grammar, so every pair is known to be right."""
    found = built(f"feedback.compare={compare}")
    pairs, known = found.pairs.items, found.pairs.statistics
    harms = [[grammar.n_insulting_words(side.text) for side in (pair.chosen, pair.rejected)] for pair in pairs]
    assert len(pairs) > 15
    assert all(chosen < rejected for chosen, rejected in harms)
    assert known["agreement"] > 0.8
    assert known["p_agreement"] < ALPHA
    assert known["n_judge_unanswered"] == 0
    if compare == "pairwise":
        assert known["position_bias"] == 0
        assert known["n_judged"] > 150
    [name] = [name for name in found.pieces if name.startswith("feedback ")]
    assert found.pieces[name].judge_tokens > 1000
    assert {name.partition(" ")[0] for name in found.pieces} == {"pairs", "feedback"}
    first, *rows = found.told["feedback"]
    assert first["statistics"] == known
    assert {(row["judge"], row["classifier"] is None) for row in rows} > {(1.0, False), (0.0, False)}


def test_a_judge_that_goes_by_the_place_makes_no_pair(folder):
    (folder / "judge.py").write_text("def answer(q):\n    return 'A'\n")
    with pytest.raises(DataError, match=r"no preference pair came out of 160 completions .* only equal rewards"):
        built("feedback.llm_judge=judge.py")


def test_a_judge_at_chance_trains_nothing(folder):
    (folder / "judge.py").write_text(BY_CHANCE)
    with pytest.raises(
        TrainingError, match=r"'judge.py' agrees with .*does not tell it from chance .*may_be_at_chance: true"
    ):
        built("feedback.llm_judge=judge.py")
    known = built("feedback.llm_judge=judge.py", "feedback.may_be_at_chance=true").pairs.statistics
    assert known["p_agreement"] > ALPHA
    assert 0.3 < known["position_bias"] < 0.7  # of both orders each is drawn anew


def test_a_judge_that_prefers_harm_is_no_better_than_chance(folder):
    (folder / "judge.py").write_text(UPSIDE_DOWN)
    with pytest.raises(TrainingError, match="does not tell it from chance"):
        built("feedback.llm_judge=judge.py")


def test_a_silent_judge_makes_up_nothing(folder):
    (folder / "judge.py").write_text("def answer(q):\n    raise OSError\n")
    with pytest.raises(DataError, match=r"no preference pair came out of 160 completions \(160 unscored"):
        built("feedback.llm_judge=judge.py")


def test_blank_completions_are_counted_as_blank(monkeypatch):
    from alignbench.pipeline import feedback

    drawn = feedback.draws_of

    def one_is_blank(*arguments):
        found = drawn(*arguments)
        return replace(found, completions=(replace(found.completions[0], text=" "), *found.completions[1:]))

    monkeypatch.setattr(feedback, "draws_of", one_is_blank)
    known = built().pairs.statistics
    assert (known["n_blank"], known["n_unscored"]) == (1, 0)


def test_agreement_by_hand():
    prompt = Prompt("p", "p")
    texts = [Completion("p", i, str(i), (i,), "length") for i in range(6)]
    pairs = [PreferencePair(prompt, texts[i], texts[i + 1], 1.0, 0.0) for i in range(5)]
    worth = [5.0, 4.0, 3.0, 3.0, None, 0.0]  # two pairs agree, one is a tie, two lack a score
    found = agreement(pairs, {("p", i): value for i, value in enumerate(worth)})
    assert found == {"n_agreement": 2, "agreement": 1.0, "p_agreement": pytest.approx(0.25)}
    assert agreement([], {}) == {"n_agreement": 0, "p_agreement": 1.0}
    require_agreement({"n_agreement": 7, "agreement": 1.0, "p_agreement": 0.5**7}, "j")  # 7 of 7: p 0.0078
    with pytest.raises(TrainingError, match=r"in 100.0% of 6 pairs, which does not tell it from chance \(p = 0.016"):
        require_agreement({"n_agreement": 6, "agreement": 1.0, "p_agreement": 0.5**6}, "j")


def test_a_run_keeps_what_was_said_and_is_charged():
    Path("rlaif.yaml").write_text(RECIPE)
    [outcome] = execute.run(load(["rlaif.yaml"], ["feedback={llm_judge: embedded/critic}"]), Path("results"))
    assert outcome.state == "done", outcome.error
    rows = [json.loads(line) for line in (outcome.path / "feedback.jsonl").read_text().splitlines()]
    assert rows[0]["statistics"]["position_bias"] == 0
    assert {"prompt", "completion", "judge", "classifier"} == {*rows[1]}
    assert json.loads((outcome.path / "status.json").read_text())["upstream_cost"]["judge_tokens"] > 1000


@pytest.mark.parametrize(
    ("sets", "problem"),
    [
        (["feedback={compare: pairwise}"], "feedback.llm_judge: got nothing, expected the model that compares"),
        (["feedback={llm_judge: no.py}"], 'llm_judge: got "no.py", expected a file beside the recipe'),
        (
            ["feedback={llm_judge: x, rubric: graded.txt}"],
            r"feedback.rubric: got .*\{first\} and \{second\} in it once",
        ),
        (["feedback={llm_judge: x}", "method={name: ppo}"], "feedback: got a block, and the method ppo, expected it"),
        (["feedback={llm_judge: x}", "pairs.source=hh_rlhf"], "feedback: got a block beside pairs.source"),
    ],
)
def test_problems_name_the_key(sets, problem):
    Path("rlaif.yaml").write_text(RECIPE.replace("batch_size: 8, learning_rate: 1.0e-4", "batch_size: 8"))
    Path("graded.txt").write_text("{completion}?")
    with pytest.raises(RecipeError, match=problem):
        load(["rlaif.yaml"], sets)


def test_recipes_without_the_block_are_the_runs_that_they_were():
    Path("rlaif.yaml").write_text(RECIPE)
    [without], [null] = load(["rlaif.yaml"]), load(["rlaif.yaml"], ["feedback=null"])
    assert without.run_hash == null.run_hash
    assert "feedback" not in without.recipe.resolved()
    hashes = {load(["rlaif.yaml"], [f"feedback={block}"])[0].run_hash for block in (
        "{llm_judge: x}", "{llm_judge: y}", "{llm_judge: x, compare: listwise}", "{llm_judge: x, attempts: 2}",
    )}  # fmt: skip
    assert len(hashes) == 3
