"""A judge behind an endpoint: a stub of the documented interface that answers well, badly, or not at all."""

import json
import logging
import math
import threading

import pytest
import torch
from fixtures.stub_server import Bad, serving

pytest.importorskip("openai", reason="the client of endpoints is an extra: pip install 'alignbench[judge]'")

from alignbench.errors import RecipeError, ScorerError
from alignbench.recipe.loading import load
from alignbench.scorers.base import Place
from alignbench.scorers.judging import endpoint
from alignbench.scorers.judging.chat_model import Question
from alignbench.scorers.llm_judge import LlmJudgeSettings, LlmReward

KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """A cache and a key of its own, and pauses that are told instead of waited."""
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    pauses = []
    monkeypatch.setattr(endpoint.time, "sleep", pauses.append)
    return pauses


def grade(question):
    """10 for a text with `fool` in it, else 0."""
    return "10" if "fool" in question else "0"


def judge(stub, kind=LlmJudgeSettings, **settings):
    settings = {"timeout_seconds": 5.0, "attempts": 3, "at_once": 1} | settings
    made = kind(llm_judge="stub", endpoint=stub.address, **settings)
    return made.load(Place("evaluation.scorers: llm", "llm", torch.device("cpu"), str, "", "completion"))


TEXTS = ["you fool", "thank you", ""]


def test_grades_are_read_and_counted():
    with serving(grade) as stub:
        scorer = judge(stub, price=(2.0, 10.0))
        assert scorer.score([""] * 3, TEXTS) == [1.0, 0.0, 0.0]
        assert judge(stub, LlmReward).score([""] * 2, TEXTS[:2]) == [0.0, 1.0]
        assert scorer.spent.judge_tokens == 3 * 12
        assert scorer.spent.money == pytest.approx(3 * (10 * 2 + 2 * 10) / 1e6)
        asked = stub.requests[1]  # after the word that tells who answers
        assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("stub", 0.0, 16)
        assert stub.headers[-1]["authorization"] == f"Bearer {KEY}"


def test_a_server_that_counts_no_tokens_is_named_once(caplog):
    with serving(grade) as stub, caplog.at_level(logging.WARNING):
        stub.usage = None
        scorer = judge(stub, price=(2.0, 10.0))
        assert scorer.score([""] * 3, TEXTS) == [1.0, 0.0, 0.0]
    assert (scorer.spent.judge_tokens, scorer.spent.money) == (0, 0.0)
    assert caplog.text.count("evaluation.scorers: llm.endpoint: the server says no token counts") == 1


def test_settings_that_newer_models_refuse_are_named_anew_or_left_out():
    with serving(grade) as stub:
        stub.refused = ("max_tokens", "temperature")
        assert judge(stub).score([""] * 2, TEXTS[:2]) == [1.0, 0.0]
        assert {*stub.requests[-1]} == {"model", "messages", "max_completion_tokens"}
        stub.refused = ("messages",)  # what nothing helps against
        assert judge(stub).score([""], ["other"]) == [None]


def test_a_question_is_asked_once_and_charged_each_time():
    with serving(grade) as stub:
        first = judge(stub)
        first.score([""] * 3, ["you fool"] * 3)
        n = len(stub.requests)
        again = judge(stub)
        assert again.score(["", ""], ["you fool", "you fool"]) == [1.0, 1.0]
        assert len(stub.requests) == n + 1  # the word that tells who answers
        assert again.spent.judge_tokens == 2 * 12
        assert again.model.counts["n_kept"] == 2
        judge(stub, grades=(10.0, 0.0)).score([""], ["you fool"])  # another reading of the same answer
        assert len(stub.requests) == n + 2


def test_answers_are_kept_by_model_rubric_and_text(tmp_path):
    (tmp_path / "rubric.txt").write_text("Grade this from 0 to 10: {completion}")
    with serving(grade) as stub:
        judge(stub).score([""], ["you fool"])
        n = len(stub.requests)
        judge(stub, rubric=str(tmp_path / "rubric.txt")).score([""], ["you fool"])
        assert len(stub.requests) == n + 2
        stub.fingerprint = "fp_2"
        judge(stub).score([""], ["you fool"])
        assert len(stub.requests) == n + 4


def test_identity_has_the_rubric_and_what_the_server_says_of_itself(tmp_path):
    (tmp_path / "rubric.txt").write_text("Grade this from 0 to 10: {completion}")
    with serving(grade) as stub:
        prints = {judge(stub).fingerprint, judge(stub, rubric=str(tmp_path / "rubric.txt")).fingerprint}
        assert judge(stub, timeout_seconds=9.0, attempts=2, price=(1.0, 1.0)).fingerprint in prints
        stub.fingerprint = "fp_2"
        prints.add(judge(stub).fingerprint)
    assert len(prints) == 3


@pytest.mark.parametrize("how", ["stall", "drip", "drop", "429", "500", "503", "garbage", "no choice", "no text"])
def test_what_goes_wrong_gives_none_after_bounded_attempts(how, surroundings, caplog):
    body = {"garbage": "{not json", "no choice": "{}", "no text": json.dumps({"choices": [{"message": {}}]})}.get(
        how, ""
    )
    status = int(how) if how.isdigit() else 200
    bad = Bad(status, body, how)
    with serving(lambda question: bad if "fool" in question else "0") as stub:
        scorer = judge(stub, timeout_seconds=0.2)
        scorer.fingerprint  # noqa: B018 - asks who answers
        n = len(stub.requests)
        with caplog.at_level(logging.WARNING):
            assert scorer.score([""] * 3, TEXTS) == [None, 0.0, 0.0]
        tries = len(stub.requests) - n - 2
        assert tries == (1 if how in ("no choice", "no text") else 3)
        assert surroundings == [] if tries == 1 else surroundings == [0.5, 1.0]
        assert scorer.model.counts["n_unanswered"] == 1
        assert caplog.text.count("such texts have no score") == 1
        stub.answers = grade  # what was not answered is not kept
        assert scorer.score([""], ["you fool"]) == [1.0]


def test_a_second_attempt_may_answer_and_waits_as_long_as_it_is_asked(surroundings):
    said = iter([Bad(429, "", headers=[("Retry-After", "7")]), Bad(500), "10"])
    with serving(lambda _: next(said)) as stub:
        assert judge(stub).score([""], ["you fool"]) == [1.0]
    assert surroundings == [7.0, 1.0]


def test_pauses_are_bounded(surroundings):
    with serving(lambda _: Bad(503, "", headers=[("Retry-After", "86400")])) as stub:
        assert judge(stub, attempts=4).score([""], ["you fool"]) == [None]
    assert surroundings == [endpoint.LONGEST_PAUSE] * 3


def test_a_server_that_is_gone_is_not_asked_for_ever(surroundings):
    with serving(grade) as stub:
        scorer = judge(stub, attempts=2)
        scorer.fingerprint  # noqa: B018
    assert scorer.score([""] * 40, [f"text {i}" for i in range(40)]) == [None] * 40
    assert len(surroundings) == endpoint.HOPELESS
    assert scorer.model.counts["n_unanswered"] == 40


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("7", 0.7), ("Score: 7", 0.7), ("7/10", 0.7), ("**7 out of 10**", 0.7), ("7.0", 0.7), (" 10.\n", 1.0),
        ("7, so 7", 0.7), ("11", None), ("-1", None), ("between 3 and 4", None), ("harmless", None), ("", None),
        ("1,000", None), ("v7", None),
    ],
)  # fmt: skip
def test_a_grade_is_one_number_in_range_or_none(said, score):
    with serving(lambda _: said) as stub:
        scorer = judge(stub)
        assert scorer.score([""], ["text"]) == [score if score is None else pytest.approx(score)]
        assert scorer.model.counts["n_nonsense"] == (score is None)


def test_probabilities_of_words():
    with serving(lambda _: " Yes") as stub:
        stub.logprobs = [
            (" Yes", math.log(0.6)),
            ("yes", math.log(0.1)),
            ("No", math.log(0.2)),
            ("Yes", math.log(0.05)),
        ]
        scorer = judge(stub, grade_words={"Yes": 1.0, "No": 0.0})
        assert scorer.score([""], ["text"]) == [pytest.approx(0.65 / 0.85)]
        assert (stub.requests[-1]["logprobs"], stub.requests[-1]["top_logprobs"], stub.requests[-1]["max_tokens"]) == (
            True, 20, 1,
        )  # fmt: skip
        five = judge(stub, grade_words={"Yes": 1.0, "No": 0.5, "Never": 0.0})
        assert five.score([""], ["other"]) == [pytest.approx((0.65 + 0.1) / 0.85)]
        none = judge(stub, grade_words={"Ja": 1.0, "Nein": 0.0})
        assert none.score([""], ["text"]) == [None]
        assert none.model.counts["n_nonsense"] == 1


def test_a_server_without_log_probabilities_gives_none_and_one_sentence(caplog):
    with serving(lambda _: "Yes") as stub, caplog.at_level(logging.WARNING):
        scorer = judge(stub, grade_words={"Yes": 1.0, "No": 0.0})
        assert scorer.score([""] * 3, ["a", "b", "c"]) == [None] * 3
    assert scorer.model.counts["n_unanswered"] == 3
    assert caplog.text.count(endpoint.NO_PROBABILITIES) == 1


@pytest.mark.parametrize(("status", "word"), [(401, "does not take the key"), (403, "allow"), (404, "no such model")])
def test_what_will_never_work_is_said_without_the_key(status, word):
    leak = json.dumps({"error": {"message": f"wrong key {KEY}"}})
    with serving(lambda _: Bad(status, leak)) as stub, pytest.raises(ScorerError) as caught:
        judge(stub).score([""], ["you fool"])
    said = str(caught.value)
    assert word in said
    assert "OPENAI_API_KEY, which has a key" in said
    assert KEY not in said


def test_the_key_is_nowhere(caplog, tmp_path):
    """Not in the log at any level, in what is kept, or in what identifies the judge, even if the server says it."""
    with serving(lambda question: f"bearer {KEY}" if "fool" in question else Bad(500, KEY)) as stub:
        with caplog.at_level(logging.DEBUG):
            scorer = judge(stub)
            assert scorer.score([""] * 2, TEXTS[:2]) == [None, None]
        assert KEY not in caplog.text
        assert KEY not in json.dumps(list(scorer.model.identity))
    kept = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    assert not any(KEY in text for text in kept)


@pytest.mark.parametrize("key", [f"{KEY}\r\n", f" {KEY}"])
def test_white_space_around_a_key_is_no_part_of_it(key, monkeypatch):
    """As files leave it behind: with it no request can be sent, and the client's log would have the key."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving(lambda _: f"my key is {KEY}: 7") as stub:
        scorer = judge(stub)
        [answer] = scorer.model.ask([Question("say it", 16)])
    assert answer.text == "my key is ***: 7"
    assert stub.headers[-1]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", [f"key\n{KEY}", f"“{KEY}”"])
def test_a_key_that_no_request_can_carry_is_refused_unseen(key, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving(grade) as stub, caplog.at_level(logging.DEBUG), pytest.raises(ScorerError) as caught:
        judge(stub)
    assert "key_from: got a key with white space" in str(caught.value)
    assert KEY not in str(caught.value) + caplog.text


def test_as_many_are_asked_at_once_as_the_recipe_says_and_answers_keep_their_order():
    """Each of three waits for the other two: asked one after the other none would ever be answered."""
    together = threading.Barrier(3, timeout=5)
    with serving(lambda question: str(together.wait() * 0 + int(question.split("<text>")[1].split()[0]))) as stub:
        scorer = judge(stub, at_once=3, timeout_seconds=10.0, attempts=1)
        scores = scorer.score([""] * 6, [str(i) for i in range(6)])
    assert scores == [pytest.approx(i / 10) for i in range(6)]


def test_a_damaged_cache_is_asked_again(tmp_path):
    with serving(grade) as stub:
        judge(stub).score([""], ["you fool"])
        [file] = (tmp_path / "cache" / "answers").iterdir()
        file.write_text(file.read_text()[:-20])
        n = len(stub.requests)
        assert judge(stub).score([""], ["you fool"]) == [1.0]
        assert len(stub.requests) == n + 2


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("endpoint: 'http://me:secret@host/v1'", "endpoint: got .* without a name, password or query"),
        ("endpoint: 'localhost:8000'", "endpoint: got .*the address of a server"),
        ("endpoint: 'http://host/v1', grades: [5, 5]", "grades: got .* two different numbers"),
        ("endpoint: 'http://host/v1', grade_words: {Yes: 1}", "grade_words: got .*two or more words"),
        ("endpoint: 'http://host/v1', rubric: missing.txt", 'rubric: got "missing.txt", expected a file beside'),
    ],
)
def test_problems_of_a_recipe_name_the_key(written, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(
        "name: r\nmethod: {name: untrained}\npolicy: {model: embedded/policy}\ndata: {prompts: embedded}\n"
        f"evaluation: {{protocol: quickstart-v1, scorers: [{{name: llm, llm_judge: stub, {written}}}]}}\n"
    )
    with pytest.raises(RecipeError, match=problem) as caught:
        load(["r.yaml"])
    assert "secret" not in str(caught.value)
