"""Dialogues in one text, taken apart by hand."""

import pytest

from datasets_prep.role_markers import read_dialogue
from datasets_prep.shared_beginnings import taken_apart

HH = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Bye?\n\nAssistant:"


@pytest.mark.parametrize(
    ("text", "prompt", "answer", "roles"),
    [
        (HH + " See you.", HH, " See you.", "user assistant user assistant"),
        ("### Human: Hi### Assistant: Yes.", "### Human: Hi### Assistant:", " Yes.", "user assistant"),
        ("Be kind.\nUSER: Hi\nASSISTANT: Yes.", "Be kind.\nUSER: Hi\nASSISTANT:", " Yes.", "system user assistant"),
        ("### Instruction:\nAdd.\n### Response:\n2", "### Instruction:\nAdd.\n### Response:", "\n2", "user assistant"),
        # What a person says after the last answer is no part of it.
        ("<|user|>Hi<|assistant|>Yo<|user|>Bye", "<|user|>Hi<|assistant|>", "Yo", "user assistant user"),
    ],
)  # fmt: skip
def test_dialogues_end_with_the_last_answer(text, prompt, answer, roles):
    found = read_dialogue(text)
    assert (found.prompt, found.answer) == (prompt, answer)
    assert " ".join(one["role"] for one in found.messages) == roles
    assert all(one["content"] == one["content"].strip() for one in found.messages)


@pytest.mark.parametrize(
    "text", ["", "Plain text.", "Assistant: first\nHuman: second", "He said Human: in a line\nand Assistant: too"]
)
def test_what_is_no_dialogue(text):
    assert read_dialogue(text) is None


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "sides"),
    [
        (HH + " See you soon.", HH + " See me.", HH, (" See you soon.", " See me.")),
        ("you are a kind man", "you are a kid", "you are a", (" kind man", " kid")),
        ("you are a man", "you are a man too", "you are a man", ("", " too")),
        ("good day", "bad day", "", ("good day", "bad day")),
    ],
)
def test_the_beginning_that_a_pair_shares(chosen, rejected, prompt, sides):
    found = taken_apart(chosen, rejected)
    assert (found["prompt"], (found["chosen"], found["rejected"])) == (prompt, sides)


def test_the_messages_that_a_pair_shares():
    asked, yes, no = (
        {"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Yes"), ("assistant", "No"))
    )
    found = taken_apart([asked, yes], [asked, no])
    assert (found["prompt"], found["messages"], found["rejected"]) == ("Hi", [asked], [asked, no])


def test_what_the_sides_go_on_with_is_an_answer_to_what_they_share():
    """Two conversations that part at a question have answers to two questions; these are no pair for a chat model."""
    asked, parted, longer = HH[: HH.index("\n\nHuman: Bye?")], "\n\nHuman: {}?\n\nAssistant: Yes.", HH + " Bye."
    texts = [asked + parted.format(question) for question in ("Who", "Why")]
    assert taken_apart(*texts)["messages"] is None
    assert taken_apart(longer, "\n\nHuman: Hi.\n\nAssistant: Go.")["messages"] is None
    one, two = (
        [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, said, strict=True)]
        for said in (("Hi", "Yes", "Who", "I"), ("Hi", "Yes", "Why", "So"))
    )
    assert (taken_apart(one, two)["prompt"], taken_apart(one, two)["messages"]) == ("", None)
    assert taken_apart(one, [*one[:3], two[3]])["messages"] == one[:3]
    assert taken_apart(one, one)["messages"] == one[:3]


def test_messages_as_text_are_messages():
    """As pandas writes a column of lists into a CSV."""
    one, two = ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}] for text in ("Yo", "No"))
    assert taken_apart(str(one), str(two)) == taken_apart(one, two)
