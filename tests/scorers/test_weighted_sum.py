"""The weighted sum of scores, on hand-worked numbers."""

from types import SimpleNamespace

import pytest

from alignbench.scorers.weighted_sum import Term, WeightedSum


def term(name, weight, *scores, fingerprint="a"):
    def score(prompts, completions):
        assert len(prompts) == len(completions) == len(scores)
        return list(scores)

    return Term(name, SimpleNamespace(name=name, fingerprint=fingerprint, score=score), weight)


def test_weight_times_score_summed():
    both = WeightedSum([term("main", 2.0, 1.0, -0.5, 0.0), term("length", -0.25, 4.0, 8.0, 0.0)], name="reward")
    assert both.score(["p"] * 3, ["a", "b", "c"]) == [1.0, -3.0, 0.0]


def test_none_where_any_term_is_none_even_at_weight_0():
    both = WeightedSum([term("main", 1.0, 1.0, None, 3.0), term("length", 0.0, None, 2.0, 2.0)], name="reward")
    assert both.score(["p"] * 3, ["a", "b", "c"]) == [None, None, 3.0]


def test_means_of_the_terms_before_their_weights():
    both = WeightedSum(
        [term("main", 2.0, 1.0, None, 3.0), term("length", -1.0, 6.0, 2.0, 1.0), term("none", 1.0, *[None] * 3)],
        name="reward",
    )
    both.score(["p"] * 3, ["a", "b", "c"])
    assert both.term_means == {"main": 2.0, "length": 3.0}


def test_a_term_that_returns_too_few_is_no_shorter_sum():
    both = WeightedSum([term("main", 1.0, 1.0, 2.0), term("x", 1.0, 1.0, 2.0)], name="reward")
    both.terms[1].scorer.score = lambda prompts, completions: [1.0]
    with pytest.raises(ValueError, match="zip"):
        both.score(["p"] * 2, ["a", "b"])


def test_fingerprint_is_of_terms_and_weights():
    def of(*terms):
        return WeightedSum(terms, name="reward").fingerprint

    plain = of(term("main", 1.0), term("x", 2.0, fingerprint="b"))
    assert of(term("main", 1.0), term("other_name", 2.0, fingerprint="b")) == plain
    assert of(term("main", 1.0), term("x", 3.0, fingerprint="b")) != plain
    assert of(term("main", 1.0), term("x", 2.0, fingerprint="c")) != plain
    assert of(term("main", 2.0), term("x", 1.0, fingerprint="b")) != plain
    assert of(term("main", 1.0)) != plain
