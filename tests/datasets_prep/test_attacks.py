"""Mutation, recombination, likeness and scores of words, by hand."""

from functools import partial

import numpy as np
import pytest

from datasets_prep.attacks import WordScores, different, likeness, make_new, mutated, novelty, recombined

ONE, OTHER = "the old dog runs now", "a red bird sings"


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_mutation_changes_one_place():
    """A word more, a word less, two words swapped, or one replaced by a new one."""
    kinds = set()
    for seed in range(60):
        words = mutated(ONE, "", rng(seed), words=["new"]).split()
        kinds.add(len(words) if sorted(words) != sorted(ONE.split()) else "swapped" if words != ONE.split() else "same")
        assert set(words) <= {*ONE.split(), "new"}
        assert len({*ONE.split()} - {*words}) <= 1
    assert kinds >= {4, 5, 6, "swapped"}
    assert mutated("word", "", rng(), words=["new"])  # never empty


def test_a_recombination_has_a_stretch_of_another_prompt_in_it():
    """What is taken out of the middle again is the prompt, and what is taken out stands in the other."""
    made = [recombined(ONE, OTHER, rng(seed), longest=7) for seed in range(60)]
    for text in made:
        words = text.split()
        n = len(words) - len(ONE.split())
        places = [i for i in range(1, len(words) - n + 1) if [*words[:i], *words[i + n :]] == ONE.split()]
        assert any(" ".join(words[i : i + n]) in OTHER for i in places)
        assert len(words) <= 7
    assert {len(text.split()) for text in made} == {5, 6, 7}
    assert {recombined(ONE, OTHER, rng(seed), longest=5) for seed in range(20)} == {ONE}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a b", "a b", 1.0),
        ("a b", "A  b", 1.0),
        ("a b", "c d", 0.0),
        ("a b c", "a b d", 2 / 6),  # start-a, a-b in common of start-a, a-b, b-c, c-end, b-d, d-end
        ("", "", 1.0),
    ],
)
def test_likeness_by_hand(one, other, expected):
    assert likeness(one, other) == likeness(other, one) == pytest.approx(expected)


def test_novelty_is_by_the_most_alike():
    assert novelty("a b c", []) == 1.0
    assert novelty("a b c", ["c d", "a b d"]) == pytest.approx(1 - 2 / 6)
    assert novelty("a b", ["x", "a b"]) == 0.0


def test_near_copies_are_left_out():
    texts = ["a b c d e f g h i", "A b c d e f g h i", "a b c d e f g h j", "x y"]
    assert different(texts) == [0, 2, 3]  # 8 of 12 pairs in common is less than four fifths
    assert different(texts, near=0.5) == [0, 3]
    assert different(texts, most=2) == [0, 2]


def test_scores_of_words_by_hand():
    """Three of four did harm: a prior of 5 prompts at 3/4."""
    scores = WordScores([("bad dog", True), ("bad cat", True), ("bad", True), ("dog dog", False)])
    assert scores.of_word("bad") == pytest.approx((3 + 5 * 0.75) / 8)
    assert scores.of_word("dog") == pytest.approx((1 + 5 * 0.75) / 7)
    assert scores.of_word("never") == pytest.approx(0.75)
    assert scores.of("bad never") == pytest.approx((scores.of_word("bad") + 0.75) / 2)
    assert WordScores([]).of("x") == 0.0


def test_new_prompts_are_new_different_and_lean_to_harm():
    scores = WordScores([("bad", True), ("good", False)] * 20)
    make = partial(mutated, words=["bad", "good"])
    made = make_new(make, [ONE, OTHER], scores, {ONE}, 10, rng())
    assert len(made) == len({*made}) == 10
    assert ONE not in made
    assert sum("bad" in text for text in made) > sum("good" in text for text in made)
    assert make_new(make, [ONE, OTHER], scores, {ONE}, 10, rng()) == made
    assert make_new(lambda one, other, rng: ONE, [ONE], scores, {ONE}, 3, rng()) == []
