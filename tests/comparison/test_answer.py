"""The answer of a table: which row, which others, which do not count, and what is left open."""

from __future__ import annotations

from itertools import count

import numpy as np
import pandas as pd
import pytest

from alignbench.comparison.answer import cost_multiples, listed
from alignbench.comparison.compare import compare
from alignbench.comparison.not_done import knobs
from alignbench.errors import UsageError
from alignbench.records import AnswerCost, Cost, MetricKey, MetricValue
from alignbench.results.schema import Upstream

N = 80


@pytest.fixture
def table(tmp_path, add_run):
    """Writes recipes from a change of the baseline's toxicity and further columns; returns their comparison."""
    rng = np.random.default_rng(3)
    base, tables = rng.uniform(0.3, 0.6, N), count()

    def write(recipes, seeds=(0,), noise=0.02, metric=None, **options):
        folder = tmp_path / str(next(tables))
        for name, change in recipes.items():
            change, more = change if isinstance(change, tuple) else (change, {})
            for seed in seeds:
                columns = {"toxicity_mean@judge": base + change + rng.normal(0, noise, N)}
                columns |= {key: np.full(N, value) + rng.normal(0, 0.01, N) for key, value in more.items()}
                add_run(folder, name, columns, seed=seed, **options.get(name, {}))
        return compare(folder, metric=metric)

    return write


def test_the_lowest_and_who_is_not_told_apart(table):
    costs = {name: {"cost": Cost(wall_seconds=s)} for name, s in (("ppo", 30.0), ("dpo", 12.0), ("sft", 6.0))}
    found = table({"untrained": 0.0, "ppo": -0.2, "dpo": -0.2, "sft": -0.1}, **costs).answer
    assert found.key == MetricKey("toxicity_mean", "judge")
    assert found.best in ("ppo", "dpo")
    assert set(found.unbeaten) == {"ppo", "dpo"}
    assert found.discounted == ()
    assert (found.decides_nothing, found.about) == (False, "these runs")
    assert {name: str(one) for name, one in found.ranking.ranges.items()} == {
        "ppo": "1-2", "dpo": "1-2", "sft": "3", "untrained": "4",
    }  # fmt: skip
    first, second, cost = found.sentences
    assert first.startswith(f"{found.best} has the lowest toxicity_mean by the held-out judge 'judge': 0.2")
    assert first.endswith("The lowest of several measured values is optimistic.")
    names = ", ".join(found.unbeaten)
    assert second == f"No row is shown to be better than {names}: 95 %, all 6 pairs together."
    times = 5.0 if found.best == "ppo" else 2.0
    said = f"{found.best} takes {times} times as long to train as sft, the cheapest"
    assert cost == said + ("; of those not told apart dpo takes least, 2.0 times." if found.best == "ppo" else ".")
    (question,) = found.open_questions
    assert {question.recipe, question.other} == {"ppo", "dpo"}


def test_one_row_alone_is_better_than_all(table):
    found = table({"untrained": 0.0, "ppo": -0.2, "dpo": -0.1}).answer
    assert found.unbeaten == ("ppo",)
    assert found.sentences[1] == "ppo is shown to be better than every other row: 95 %, all 3 pairs together."
    assert found.open_questions == ()


def test_flagged_rows_do_not_count_and_are_named(table):
    comparison = table(
        {"untrained": (0.0, {"repetition_rate": 0.0}), "ppo": (-0.1, {"repetition_rate": 0.0}),
         "loops": (-0.3, {"repetition_rate": 0.4}), "worse": (0.2, {"repetition_rate": 0.4})}
    )  # fmt: skip
    found = comparison.answer
    assert found.best == "ppo"
    assert [(one.recipe, one.measures_better) for one in found.discounted] == [("loops", True), ("worse", False)]
    assert [flag.name for flag in found.discounted[0].flags] == ["degenerate"]
    assert "loops (degenerate) measures better and does not count: see the flags." in found.sentences
    assert (
        "ppo is shown to be better than the only other row that counts: 95 %, all 6 pairs together." in found.sentences
    )
    assert str(found.ranking.ranges["ppo"]) == "2"  # ranks are of all rows


def test_texts_that_degenerate_by_seeds_of_different_degree_do_not_count(tmp_path, add_run):
    """Perplexities of 5, 40 and 400 instead of 3: what another seed would give is open, what these are like is not."""
    rng = np.random.default_rng(3)
    base = rng.uniform(0.3, 0.6, N)
    for seed, perplexity in enumerate((5.0, 40.0, 400.0)):
        for name, change, wrecked in (("untrained", 0.0, 3.0), ("sft", -0.1, 3.0), ("ascent", -0.3, perplexity)):
            columns = {"toxicity_mean@judge": base + change + rng.normal(0, 0.02, N)}
            columns["perplexity"] = np.log(wrecked) + rng.normal(0, 0.1, N)
            add_run(tmp_path, name, columns, seed=seed)
    comparison = compare(tmp_path)
    (record,) = [one for one in comparison.records() if (one["recipe"], one["metric"]) == ("ascent", "perplexity")]
    assert record["verdict"] == "not distinguishable"
    assert comparison.answer.best == "sft"
    assert [flag.name for flag in comparison.answer.discounted[0].flags] == ["degenerate"]


def test_texts_that_are_not_scored_disqualify(table):
    unscored = {"unscored": {"toxicity_mean@judge": 2}}
    assert table({"untrained": 0.0, "ppo": -0.2, "dpo": -0.1}, ppo=unscored).answer.best == "dpo"


def test_a_judge_that_a_row_was_trained_on_counts_against_it_on_this_judge_alone(tmp_path, add_run):
    rng = np.random.default_rng(0)
    base = rng.uniform(0.3, 0.6, N)
    for name, change in (("untrained", 0.0), ("ppo", -0.2), ("dpo", -0.1)):
        columns = {f"toxicity_mean@{one}": base + change + rng.normal(0, 0.01, N) for one in ("a", "b")}
        add_run(tmp_path, name, columns)
    comparison = compare(tmp_path)
    flag = next(iter([flag for row in comparison.recipes for flag in row.flags if flag.name == "own_judge"]), None)
    assert flag is None
    assert comparison.answer.best == "ppo"


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_nothing_is_decided(table, seeds):
    found = table({"untrained": 0.0, "ppo": 0.0, "dpo": 0.0}, seeds, noise=0.2).answer
    assert found.decides_nothing
    assert found.sentences[0] == "All differences include zero: this comparison decides nothing."
    assert {str(one) for one in found.ranking.ranges.values()} == {"1-3"}


def test_what_could_not_be_tested_is_not_said_to_include_zero(tmp_path, add_run):
    for name, value in (("untrained", 0.5), ("ppo", 0.1)):
        add_run(tmp_path, name, {"toxicity_mean@judge": np.full(9, value) + np.arange(9) / 100})
    found = compare(tmp_path).answer
    reason = "9 measured prompts, an interval needs 10"
    assert (found.decides_nothing, found.untested) == (True, (reason,))
    assert found.sentences[0] == f"No difference could be tested ({reason}): this comparison decides nothing."


def test_how_many_could_not_be_tested_is_said_beside_what_includes_zero(tmp_path, add_run):
    noise = np.random.default_rng(0).normal(0, 0.1, (3, 20))
    for name, own, n in zip(("untrained", "ppo", "dpo"), noise, (20, 20, 8), strict=True):
        few = {"unscored": {"toxicity_mean@judge": 0}} if n == 20 else {"unscored": {"toxicity_mean@judge": 12}}
        values = np.where(np.arange(20) < n, 0.5 + own, np.nan)
        add_run(tmp_path, name, {"toxicity_mean@judge": values}, **few)
    found = compare(tmp_path).answer
    assert len(found.untested) == 2
    assert found.sentences[0].startswith("All differences include zero, but 2 of 3 could not be tested (8 ")


def test_nothing_is_decided_once_all_pairs_are_counted(tmp_path, add_run):
    """An interval that excludes zero, and no verdict: `all differences include zero` would be false."""
    noise = np.random.default_rng(0).normal(size=(4, N))
    noise = np.linalg.qr(noise.T - noise.mean(axis=1))[0].T * (0.2 * np.sqrt(N))  # exactly uncorrelated, of one size
    for name, change, own in zip(("untrained", "a", "b", "c"), (0.0, -0.08, 0.0, 0.0), noise, strict=True):
        add_run(tmp_path, name, {"toxicity_mean@judge": 0.5 + change + own - own.mean()})
    found = compare(tmp_path).answer
    assert found.decides_nothing
    assert not found.includes_zero
    assert found.sentences[0] == "No difference is shown (95 %, all 6 pairs together): this comparison decides nothing."
    lost = found.ranking.lost_to_adjustment
    assert {frozenset((one.recipe, one.other)) for one in lost} == {
        frozenset(("a", x)) for x in ("untrained", "b", "c")
    }
    assert all(one.measurement.difference.p_value <= 0.05 < one.measurement.difference.p_adjusted for one in lost)
    assert found.sentences[-1].startswith("Open only because there are 6 pairs: a against untrained, a against ")


def test_the_baseline_may_be_the_lowest(table):
    found = table({"untrained": 0.0, "ppo": 0.2}).answer
    assert found.best == "untrained"
    assert found.best not in found.cost_multiples
    assert found.sentences[0].startswith("untrained, the baseline, has the lowest toxicity_mean by the held-out judge")


def test_no_row_counts(table):
    unscored = {"unscored": {"toxicity_mean@judge": 2}}
    found = table({"untrained": 0.0, "ppo": -0.1}, untrained=unscored, ppo=unscored).answer
    assert (found.best, found.unbeaten) == (None, ())
    assert found.sentences == ("No row counts: each has a flag that speaks against it, or no value.",)


def test_another_metric(table):
    recipes = {
        "untrained": (0.0, {"distinct_2": 0.5}),
        "ppo": (-0.2, {"distinct_2": 0.3}),
        "dpo": (-0.1, {"distinct_2": 0.7}),
    }
    found = table(recipes, metric="distinct_2").answer
    assert found.best == "dpo"
    assert found.sentences[0].startswith("dpo has the highest distinct_2: 0.7")
    with pytest.raises(UsageError, match="did you mean 'distinct_2'"):
        table(recipes, metric="distinct2")


def test_a_metric_of_the_whole_corpus(tmp_path, add_run):
    for name, value in (("untrained", 0.5), ("ppo", 0.7)):
        noise = np.random.default_rng(len(name)).normal(0, 0.001, 20)
        whole = [MetricValue("corpus_distinct_2", None, value, None, None, "higher", N, 0, None, tuple(value + noise))]
        add_run(tmp_path, name, {"kl": np.linspace(0, 1, N)}, whole=whole)
    found = compare(tmp_path, metric="corpus_distinct_2").answer
    assert (found.best, found.unbeaten) == ("ppo", ("ppo",))
    assert found.sentences[1] == "ppo is shown to be better than the only other row: 95 %."


def test_values_by_seed(table):
    comparison = table({"untrained": 0.0, "ppo": -0.1}, seeds=(0, 3))
    row = comparison.recipes[1]
    values = row.by_seed[MetricKey("toxicity_mean", "judge")]
    assert len(values) == len(row.seeds) == 2
    assert np.mean(values) == pytest.approx(row.metrics[MetricKey("toxicity_mean", "judge")].value.value)


def test_cost_in_multiples(table):
    costs = {
        "untrained": {"cost": Cost()},
        "ppo": {"cost": Cost(wall_seconds=30.0)},
        "dpo": {"cost": Cost(wall_seconds=12.0)},
    }
    comparison = table({"untrained": 0.0, "ppo": -0.2, "dpo": -0.1}, **costs)
    assert cost_multiples(comparison.recipes) == {"ppo": 2.5, "dpo": 1.0}
    assert cost_multiples(comparison.recipes, "reward_calls") == {}


RECIPE = (
    "name: {name}\nmethod: {{name: {name}, learning_rate: 0.0001, kl_coef: 0.2, gamma: 1.0, gae_lambda: 0.95}}\n"
    "data: {{prompts: a.csv, heldout: {heldout}}}\nevaluation: {{prompts: null}}\nseed: 0\n"
)


def test_what_was_not_done(table):
    options = {"ppo": {"resolved_recipe": RECIPE.format(name="ppo", heldout="null")}}
    said = table({"untrained": 0.0, "ppo": -0.1}, **options).answer.not_done
    assert said == (
        "One seed: another may come out differently.",
        "Prompts are held out of the training source: no others were tried.",
        "Not tuned: ppo: lr 0.0001, kl_coef 0.2.",
    )


def test_what_was_done_is_not_mentioned(table):
    tuned = (Upstream(recipe="t0", seed=0, run_hash="h", role="tuning"),)
    options = {"ppo": {"resolved_recipe": RECIPE.format(name="ppo", heldout="b.csv"), "upstream": tuned}}
    assert table({"untrained": 0.0, "ppo": -0.1}, (0, 1, 2), **options).answer.not_done == ()


def test_some_were_tuned(table):
    tuned = {"upstream": (Upstream(recipe="t0", seed=0, run_hash="h", role="tuning"),)}
    said = table({"untrained": 0.0, "ppo": -0.1, "dpo": -0.1}, (0, 1), ppo=tuned).answer.not_done
    assert said == (
        "Two seeds: the spread between seeds is known from two runs.",
        "Not tuned, unlike the other 1: dpo: kl_coef 0.2.",
    )


def test_knobs():
    assert knobs({"beta": 2.5, "gamma": 1.375, "kl_target": None, "epochs": 3}) == {"beta": 2.5, "gamma": 1.375}
    assert knobs({"gamma": 1.0, "gae_lambda": 0.95, "kl_coef": 0.0}) == {"kl_coef": 0.0}
    assert knobs({"weight": True}) == {}


def test_many_names():
    assert listed(["a", "b", "c"], 2) == "a, b, c"
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"


@pytest.fixture
def answered(tmp_path, add_run, comparability):
    """A baseline and a recipe with known scores of two completions each."""
    scores = {
        "untrained": np.linspace(0.1, 0.9, N),
        "ppo": np.linspace(0.1, 0.5, N),
    }  # falls by 0 to 0.4, 0.2 on average
    for name, first in scores.items():
        completions = pd.DataFrame(
            {
                "prompt_id": np.repeat([f"p{i}" for i in range(N)], 2),
                "prompt": np.repeat([f"Q{i}" for i in range(N)], 2),
                "sample": np.tile([0, 1], N), "completion": [f"{name} {i} {k}" for i in range(N) for k in (0, 1)],
                "n_tokens": 5, "finish_reason": "eos", "toxicity@judge": np.repeat(first, 2) + np.tile([0.0, 0.05], N),
            }
        )  # fmt: skip
        columns = {"toxicity_mean@judge": first + 0.025, "completion_tokens": np.full(N, 5.0)}
        same = comparability | {"toxicity_threshold": 0.5, "threshold_inclusive": True}
        add_run(tmp_path, name, columns, completions=completions, comparability=same, answer_cost=AnswerCost(5, 1e6))
    return compare(tmp_path)


def test_an_example_is_the_median_of_what_moved(answered):
    (found,) = answered.examples()
    assert found.prompt in ("Q39", "Q40")  # of 79 falls, the prompt without one left out
    assert found.before.text == f"untrained {found.prompt[1:]} 0"
    assert found.after.text == f"ppo {found.prompt[1:]} 0"
    assert found.before.score - found.after.score == pytest.approx(0.2, abs=0.01)
    assert found.is_toxic == (found.before.score >= 0.5, False)
    many = answered.examples(n=4)
    falls = [one.before.score - one.after.score for one in many]
    assert falls == pytest.approx([0.35, 0.25, 0.15, 0.05], abs=0.01)


def test_gains_of_every_row(answered):
    gain = answered.gains()["ppo"]
    assert (gain.tokens, gain.change) == (5.0, 0.0)
    assert gain.left == pytest.approx(1.0)  # all completions have one length
    assert gain.word == "100 % left"
    assert answered.gains("untrained") == {}


def test_a_policy_without_completions_has_no_examples(table):
    assert table({"untrained": 0.0, "ppo": -0.1}).examples() == []
