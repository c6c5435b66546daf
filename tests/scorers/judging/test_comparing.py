"""A model compares answers: both orders of two, shuffled orders of n, position bias, and what is no answer."""

import re
from collections import Counter

import pytest

from alignbench.scorers.judging.answers import KeptAnswers
from alignbench.scorers.judging.comparing import Comparing, Two, places_of, verdict_of
from alignbench.scorers.judging.script import ScriptModel
from alignbench.scorers.llm_judge import RUBRICS
from alignbench.scorers.templates import read_template

PAIRWISE = read_template(RUBRICS / "pairwise.txt", ["first", "second"], ["prompt"])
LISTWISE = read_template(RUBRICS / "listwise.txt", ["answers"], ["prompt"])
PAIRS = [Two("hi,", "you fool", "thanks"), Two("hi,", "thanks", "you fool"), Two("hi,", "well", "thanks")]
BY_LENGTH = """\
import re
def answer(question):
    first, second = (re.search(f"<{x}>\\\\n(.*?)\\\\n</{x}>", question, re.S).group(1) for x in "AB")
    return "tie" if ("fool" in first) == ("fool" in second) else "B" if "fool" in first else "A"
"""


@pytest.fixture
def comparing(tmp_path):
    def make(source, rubric=PAIRWISE):
        (tmp_path / "judge.py").write_text(source)
        return Comparing(KeptAnswers(ScriptModel(tmp_path / "judge.py", "here"), None, name="judge"), rubric)

    return make


def test_the_better_one_of_two_whatever_the_order(comparing):
    judge = comparing(BY_LENGTH)
    assert judge.compare(PAIRS) == ["second", "first", "tie"]
    assert judge.counts == Counter(n_compared=3, n_ties=1, n_disagreements=0)


@pytest.mark.parametrize("place", ["A", "B"])
def test_a_judge_that_goes_by_the_place_gives_ties_and_is_found_out(comparing, place):
    judge = comparing(f"def answer(question):\n    return {place!r}\n")
    assert judge.compare(PAIRS) == ["tie"] * 3
    assert judge.counts["n_disagreements"] == 3


def test_one_order_without_an_answer_is_no_preference(comparing):
    source = BY_LENGTH.replace('return "tie"', 'return "who knows" if first == "well" else "tie"')
    judge = comparing(source)
    assert judge.compare(PAIRS) == ["second", "first", None]
    assert judge.counts["n_unanswered"] == 1
    assert judge.model.counts["n_nonsense"] == 1


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("A", "first"), (" B.\n", "second"), ("(A)", "first"), ("**B**", "second"), ("tie", "tie"), ("Tie.", "tie"),
        ("a tie", "tie"), ("A tie.", "tie"), ("Answer: A", "first"), ("A and B", None), ("B is better than A", None),
        ("neither", None), ("", None), ("Abba", None), ("a", None), ("tied", None),
    ],
)  # fmt: skip
def test_verdicts(text, verdict):
    assert verdict_of(text) == verdict


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("best 2, worst 1", (1, 0)), ("Best: 3; Worst: 1.", (2, 0)), ("**Best:** 1\n**Worst:** 3", (0, 2)),
        ("best 2, worst 2", None), ("best 4, worst 1", None), ("best 0, worst 1", None), ("worst 1", None),
        ("2, 1", None), ("best 1, worst 2 or best 2, worst 1", None), ("", None),
    ],
)  # fmt: skip
def test_places(text, places):
    assert places_of(text, 3) == places


def test_the_best_and_the_worst_of_several_in_orders_that_a_seed_decides(comparing):
    source = """\
import re
def answer(question):
    texts = re.findall(r"<(\\d+)>\\n(.*?)\\n</", question, re.S)
    worth = {place: len(text) for place, text in texts}
    return f"best {max(worth, key=worth.get)}, worst {min(worth, key=worth.get)}"
"""
    groups = [(f"prompt {i}", ["bb", "a", "dddd", "ccc"], (7, f"prompt {i}")) for i in range(40)]
    judge, again = comparing(source, LISTWISE), comparing(source, LISTWISE)
    assert judge.best_and_worst(groups) == [(2, 1)] * 40
    assert again.best_and_worst(groups[::-1]) == [(2, 1)] * 40
    places = {name: n for name, n in judge.counts.items() if name.startswith("n_best_in_place")}
    assert places == {name: n for name, n in again.counts.items() if name.startswith("n_best_in_place")}
    assert sum(places.values()) == 40
    assert len(places) == 4  # every place had the best one at times


def test_a_place_without_an_answer_is_none(comparing):
    judge = comparing("def answer(question):\n    raise OSError\n", LISTWISE)
    assert judge.best_and_worst([("p", ["a", "b"], (0, "p"))]) == [None]
    assert (judge.counts["n_unanswered"], judge.model.counts["n_unanswered"]) == (1, 1)


def test_a_text_cannot_fill_a_place_of_the_rubric(comparing):
    """What is judged may look like a place; it stays what it is."""
    judge = comparing("def answer(question):\n    return 'A' if question.count('{second}') == 1 else 'B'\n")
    judge.compare([Two("p", "{second}", "thanks")])
    assert judge.counts["n_disagreements"] == 1  # A, whichever way round: the place was never filled in


@pytest.mark.parametrize("name", ["graded", "pairwise", "listwise"])
def test_shipped_rubrics_ask_for_harm(name):
    assert re.search(r"harmful", (RUBRICS / f"{name}.txt").read_text())
