"""Who dominates whom: by findings alone, never for want of one."""

import numpy as np
import pytest

from alignbench.comparison.domination import Contender, answers_until_it_pays, dominations, frontier

N = 200


def contender(name, cost=(0.0, 1.0), toxicity=0.0, perplexity=0.0, seed=0, n_seeds=1, spread=0.1, varies=False):
    """Values over prompts that are about equally toxic under every recipe, moved, each with noise of its own."""
    shared, own = np.random.default_rng(99), np.random.default_rng(seed)
    prompts = shared.uniform(0.2, 0.5, N), shared.uniform(1.0, 2.0, N)
    tox, ppl = (
        base + move + spread * own.standard_normal((n_seeds, N))
        for base, move in zip(prompts, (toxicity, perplexity), strict=True)
    )
    return Contender(name, *cost, {"judge": tox}, ppl, varies)


def found(*contenders):
    return [(one.recipe, one.by, one.better_on) for one in dominations(contenders)]


def test_the_cheaper_of_two_that_are_as_good_dominates():
    cheap, dear = contender("cheap", seed=1, spread=0.03), contender("dear", (0.0, 4.0), seed=2, spread=0.03)
    assert found(cheap, dear) == [("dear", "cheap", ("answers",))]
    trained = contender("trained", (9.0, 1.0), seed=3, spread=0.03)
    assert ("trained", "cheap", ("training",)) in found(cheap, trained)
    (one,) = dominations([cheap, dear])
    assert "margin 0.02" in str(one)
    assert "margin 5%" in str(one)


def test_what_is_better_and_dearer_dominates_nobody_and_nobody_it():
    base, better = contender("base", seed=1), contender("better", (9.0, 1.0), toxicity=-0.2, seed=2)
    assert found(base, better) == []


def test_better_answers_at_the_same_cost_dominate():
    base = contender("base", seed=1)
    better = contender("better", (0.0, 1.02), toxicity=-0.2, seed=2)  # costs that only differ by the answers' length
    assert found(base, better) == [("base", "better", ("judge",))]
    noisy = contender("noisy", (0.0, 1.02), toxicity=-0.2, perplexity=1.0, seed=2)
    assert found(base, noisy) == []


@pytest.mark.parametrize("measure", ["toxicity", "perplexity"])
def test_not_distinguishable_never_dominates(measure):
    """A cheaper row that is 0.04 more toxic, or 6 % more perplexing, with too few prompts to see it."""
    worse = {"toxicity": 0.04, "perplexity": np.log(1.06)}[measure]
    n_wrong = n_silent = 0
    for seed in range(100):
        cheap = contender("cheap", **{measure: worse}, seed=2 * seed + 1, spread=0.3)
        dear = contender("dear", (0.0, 4.0), seed=2 * seed + 2, spread=0.3)
        values = (cheap.toxicity["judge"] if measure == "toxicity" else cheap.log_perplexity) - (
            dear.toxicity["judge"] if measure == "toxicity" else dear.log_perplexity
        )
        t = values.mean() / (values.std() / np.sqrt(N))
        n_silent += abs(t) < 1.96  # a rule that goes by this would let it dominate
        n_wrong += bool(found(cheap, dear))
    assert n_silent > 30
    assert n_wrong <= 5


def test_a_cost_that_is_not_known_and_a_measure_that_is_not_there():
    cheap, dear = contender("cheap", seed=1, spread=0.03), contender("dear", (0.0, None), seed=2, spread=0.03)
    assert found(cheap, dear) == []
    without = Contender("without", 0.0, 4.0, {}, cheap.log_perplexity)
    assert found(cheap, without) == []
    silent = Contender("silent", 0.0, 4.0, cheap.toxicity, None)
    assert found(cheap, silent) == []
    assert found() == found(cheap) == []


def test_every_judge_must_agree():
    one, other = contender("one", seed=1, spread=0.03), contender("other", (0.0, 4.0), seed=2, spread=0.03)
    blind, sees = one.toxicity["judge"], one.toxicity["judge"] + 0.1
    more = Contender("one", 0.0, 1.0, {"judge": blind, "second": sees}, one.log_perplexity, varies=False)
    less = Contender("other", 0.0, 4.0, {"judge": blind + 1e-3, "second": blind}, other.log_perplexity, varies=False)
    assert found(more, less) == []


def test_seeds_of_a_method_count_as_seeds():
    """Three seeds that differ by more than the margin say nothing about the method; three that agree do."""
    dear = contender("dear", (9.0, 4.0), seed=9, n_seeds=3, spread=0.02, varies=True)
    alike = contender("alike", (9.0, 1.0), seed=1, n_seeds=3, spread=0.02, varies=True)
    assert found(alike, dear) == [("dear", "alike", ("answers",))]
    apart = Contender(
        "apart", 9.0, 1.0, {"judge": alike.toxicity["judge"] + np.array([[-0.1], [0.0], [0.1]])}, alike.log_perplexity
    )
    assert found(apart, dear) == []


def test_answers_from_which_on_training_pays():
    """Training for 900, answers at 1 each; best of ten, answers at 10 each: equal at 100 answers."""
    trained, best_of_ten, base = contender("t", (900.0, 1.0)), contender("b", (0.0, 10.0)), contender("base")
    assert answers_until_it_pays(trained, best_of_ten) == 100
    assert answers_until_it_pays(contender("t", (901.0, 1.0)), best_of_ten) == 101
    assert answers_until_it_pays(trained, base) is None
    assert answers_until_it_pays(base, trained) == 0
    assert answers_until_it_pays(base, base) is None
    assert answers_until_it_pays(trained, contender("longer", (0.0, 1.04))) is None  # answers differ in length
    assert answers_until_it_pays(best_of_ten, contender("x", (5.0, None))) is None


def test_the_frontier_by_hand():
    points = {"base": (0.4, 1.0), "half": (0.2, 1.1), "end": (0.1, 1.3), "bad": (0.2, 1.2), "twin": (0.1, 1.3)}
    assert frontier(points) == ["base", "half", "end", "twin"]
