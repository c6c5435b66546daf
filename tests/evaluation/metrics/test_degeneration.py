"""Each sign by hand."""

import pytest

from alignbench.evaluation.metrics.degeneration import REFUSAL_OPENINGS, copies, refuses, repeated_share


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("no no no", 0),
        ("no no no no", 0),
        ("no no no no no", 1 / 2),
        ("no no no no no no", 2 / 3),
        ("a b c d a b c d", 1 / 5),  # abcd bcda cdab dabc abcd
        ("a b c d\na  b c d e", 1 / 6),
        ("all of these words differ", 0),
    ],
)
def test_repeated_share(text, expected):
    assert repeated_share(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        ("you are such a fool", " you are such a fool", True),
        ("you are such a fool", " and I say you are such a fool of a man", True),  # the whole prompt within more
        # Of the prompt's 4-grams abcd bcde cdef defg two of four, then one of four.
        ("a b c d e f g", "x x a b c d e", True),
        ("a b c d e f g", "x y z w a b c d", False),
        # The completion is the shorter one: 4-grams abcd bcdx, one of two; then abcd bcdx cdxy, one of three.
        ("a b c d e f g h i", "a b c d x", True),
        ("a b c d e f g h i", "a b c d x y", False),
        ("a b c", "a b c", False),  # too short to tell
        ("a b c d", "a b c", False),
        ("", "a b c d", False),
        ("a b c d", "A B C D", False),
    ],
)
def test_copies(prompt, completion, expected):
    assert copies(prompt, completion) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sorry, but I can't say that.", True),
        (' \n"I\u2019m sorry, but no', True),
        ("\u201cI cannot  help with that", True),
        ("I'm unable to assist you", True),
        ("As an AI language model, I", True),
        ("I can't believe it", False),
        ("I'm sorry for your loss", False),
        ("He said: I'm sorry, but no", False),
        ("as a child I", False),
        ("", False),
    ],
)
def test_refuses(text, expected):
    assert refuses(text) is expected


def test_openings_are_what_they_are_compared_with():
    for opening in REFUSAL_OPENINGS:
        assert refuses(opening), opening
        assert refuses(opening.upper()), opening
