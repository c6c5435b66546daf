"""Judges besides a classifier, from recipe to table: word lists, Python functions, and texts that they cannot score."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import alignbench
from alignbench.cli import main
from alignbench.pipeline import execute
from alignbench.recipe.loading import load

JUDGES = """\
def _gaps(completions, n):
    # The first n of a call of 120: the whole evaluation is one batch.
    assert len(completions) in (1, 4, 120)  # those of the start, and the evaluation in one batch
    return [None if i < n else 0.25 for i in range(len(completions))]


def most(prompts, completions): return _gaps(completions, 119)
def some(prompts, completions): return _gaps(completions, 2)
def one(prompts, completions): return _gaps(completions, 1)
def prompted(prompts, completions): return [float(any(prompts))] * len(completions)
"""


@pytest.fixture
def evaluated(recipe_folder):
    Path("judges.py").write_text(JUDGES)
    Path("words.txt").write_text("dog\nvery\n")
    judges = [{"name": name, "function": f"judges.py:{name}"} for name in ("most", "some", "one", "prompted")]
    judges += [{"name": "lex", "lexicon": "words.txt"}, {"name": "share", "lexicon": "words.txt"}]
    judges[-1]["lexicon_score"] = "share"
    changes = [f"evaluation.scorers={json.dumps(judges)}", "evaluation.batch_size=120", "evaluation.n_prompts=30"]
    [outcome] = execute.run(load(["base.yaml"], changes), Path("results"))
    assert outcome.state == "done", outcome.error
    return alignbench.load_metrics("results").set_index(["metric", "scorer"])


def test_word_lists_judge_what_was_drawn(evaluated):
    texts = [text.split() for text in alignbench.load_completions("results")["completion"]]
    listed = [[word in ("dog", "very") for word in words] for words in texts]
    assert 0 < sum(map(any, listed)) < 120  # else nothing would be tested
    assert evaluated.loc["toxicity_mean", "lex"]["value"] == pytest.approx(sum(map(any, listed)) / 120)
    shares = [sum(one) / len(one) if one else 0.0 for one in listed]
    assert evaluated.loc["toxicity_mean", "share"]["value"] == pytest.approx(sum(shares) / 120)
    scorers = json.loads(Path("results/base/seed0/evaluations/quickstart-v1.other-prompts/metrics.json").read_text())
    assert scorers["comparability"]["prompt_included"] == dict.fromkeys(
        ["lex", "most", "one", "prompted", "share", "some"], False
    )


def test_a_function_sees_no_prompt_unless_it_is_said(evaluated):
    assert evaluated.loc["toxicity_mean", "prompted"]["value"] == 0.0


def test_more_than_one_percent_unscored_is_withheld_with_the_reason(evaluated):
    for name, n_gaps in (("some", 2), ("most", 119)):
        for metric in ("toxicity_mean", "toxicity_rate", "toxicity_std", "expected_max_toxicity"):
            row = evaluated.loc[metric, name]
            assert row["value"] != row["value"], (metric, name)  # NaN in the frame, null in the file
            assert row["reason"] == f"{n_gaps} of 120 completions unscored, at most 1% allowed"
        row = evaluated.loc["toxicity_mean", name]
        assert (row["n_scored"], row["n_unscored"]) == (120 - n_gaps, n_gaps)
    row = evaluated.loc["toxicity_mean", "one"]
    assert (row["value"], row["n_scored"], row["n_unscored"]) == (0.25, 119, 1)
    assert evaluated.loc["expected_max_toxicity", "one"]["n_unscored"] == 1  # a prompt


def test_the_table_counts_and_says_withheld(evaluated):
    result = CliRunner().invoke(main, ["compare", "results", "--details"])
    assert result.exit_code == 3, result.output  # shown, but there is nothing to compare it with
    said = " ".join(result.output.split())
    assert "toxicity_mean@some 1.7% (withheld)" in said
    assert "toxicity_mean@most 99.2% (withheld)" in said
    assert "toxicity_mean@one" not in said.partition("could not be measured")[2]
    result = CliRunner().invoke(main, ["compare", "results", "--format", "json"])
    [record] = [r for r in json.loads(result.stdout) if (r["metric"], r["scorer"]) == ("toxicity_mean", "some")]
    assert (record["value"], record["n_scored"], record["n_unscored"]) == (None, 118, 2)
    assert "unscored" in record["flags"]


def test_who_was_trained_on_a_judge_is_marked(recipe_folder, checkpoints):
    """By weights: under another name and label, through labelled pairs, and through an upstream reward model."""
    judges = [
        "reward",
        {"name": "other", "classifier": str(checkpoints / "judge"), "label": "toxic"},
        {"name": "same_weights", "classifier": str(checkpoints / "classifier"), "label": "hate"},
    ]
    names = ["base", "ppo", "dpo", "ppo_learned_reward", "by_other"]
    own = {"classifier": str(checkpoints / "judge"), "label": "neutral"}
    by_other = json.loads(Path("ppo.yaml").read_text()) | {"name": "by_other", "reward": own}
    Path("by_other.yaml").write_text(json.dumps(by_other))
    recipes = load([f"{name}.yaml" for name in names], [f"evaluation.scorers={json.dumps(judges)}"])
    outcomes = execute.run(recipes, Path("results"))
    assert {outcome.state for outcome in outcomes} == {"done"}, [outcome.error for outcome in outcomes]
    result = CliRunner().invoke(main, ["compare", "results", "--allow-mismatch", "--format", "json"])
    assert result.exit_code == 0, result.output
    flags = {record["recipe"]: record["flags"] for record in json.loads(result.output)}
    marked = {recipe for recipe, names in flags.items() if "own_judge" in names}
    assert marked == {"ppo", "dpo", "ppo_learned_reward", "by_other"}
    result = CliRunner().invoke(main, ["compare", "results", "--allow-mismatch", "--details"])
    said = " ".join(result.output.split())
    assert "judges it here: other;" in said  # by_other
    assert "judges it here: same_weights;" in said
    assert "judges it here: other, same_weights" not in said
