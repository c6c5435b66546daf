"""Prompts that are lists of messages: what becomes text, what stays a conversation, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from alignbench.errors import DataError, LeakError
from alignbench.records import Messages, Prompt
from datasets_prep.columns import read_prompts
from datasets_prep.prepare import prepare_prompts
from datasets_prep.prepared import PreparedData
from datasets_prep.settings import ColumnMapping, PromptSettings

SYSTEM = {"role": "system", "content": "Be brief."}


def user(text: str) -> dict[str, object]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, object]:
    return {"role": "assistant", "content": text}


def read(value: object, *, conversations: bool = True, column: str = "prompt") -> Prompt:
    (prompt,) = read_prompts(
        [{column: value}], ColumnMapping(), origin="f", needs_toxicity=False, conversations=conversations
    )
    return prompt


class ChatWords:
    """A word a token, and one more for each message but the first."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def encode(self, text: str) -> list[int]:
        self.words += text.split()
        return list(range(len(self.words) - len(text.split()), len(self.words)))

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(self.words[i] for i in token_ids)

    def conversation_length(self, messages: Messages) -> int:
        return sum(len(self.encode(content)) for _, content in messages) + len(messages) - 1


def test_one_user_message_is_its_text() -> None:
    assert read([user("hello")]) == read("hello") == Prompt(read("hello").id, "hello")
    assert read([user("hello")], column="messages").text == "hello"


def test_several_messages_stay_and_their_text_is_what_they_say() -> None:
    prompt = read([SYSTEM, user("hello"), assistant("hi"), user("and?")])
    assert prompt.text == "hello\nhi\nand?"
    assert prompt.messages == (("system", "Be brief."), ("user", "hello"), ("assistant", "hi"), ("user", "and?"))
    assert prompt.id != read([user("hello"), assistant("hi"), user("and?")]).id


def test_what_follows_the_last_user_message_is_an_answer() -> None:
    assert read([user("hello"), assistant("hi")]) == read("hello")
    assert read([user("a"), assistant("b"), user("c"), assistant("d")]) == read([user("a"), assistant("b"), user("c")])


def test_parts_of_text_are_joined_and_half_characters_replaced() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert read([{"role": "user", "content": parts}]).text == "ab"
    prompt = read([SYSTEM, user("cut \ud83d")])
    assert prompt.messages == (("system", "Be brief."), ("user", "cut \ufffd"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([user("a"), SYSTEM, user("b")], "a system message at the start alone"),
        ([SYSTEM], "at least one message with the role user"),
        ([{"role": "tool", "content": "x"}], r"messages with a role \(system, user, assistant\)"),
        ([{"from": "human", "value": "x"}], "messages with a role"),
        ([{"role": "user", "content": [{"type": "image", "url": "u"}]}], "a text as content"),
        ([{"role": "user", "content": None}], "a text as content"),
        (["hello"], "expected text"),
    ],
)
def test_what_is_no_conversation_is_named_with_its_row(value: object, message: str) -> None:
    with pytest.raises(DataError, match=rf"f, row 1: column 'prompt' holds a list .*{message}"):
        read(value)


def test_without_a_chat_block_a_conversation_is_refused() -> None:
    with pytest.raises(DataError, match=r"row 1: column 'prompt' holds a list .* needs a `chat:` block"):
        read([user("hello")], conversations=False)


def test_an_empty_last_turn_is_an_empty_text() -> None:
    assert read([user("a"), assistant("b"), user(" ")]).text == ""


def prepare(rows: Sequence[dict[str, Any]], write_jsonl: Callable[..., str], **settings: Any) -> PreparedData:
    everything = {"validation_fraction": 0.0, "heldout_fraction": 0.0}
    block = PromptSettings.model_validate({"prompts": write_jsonl("a.jsonl", rows), **everything, **settings})
    return prepare_prompts(block, ChatWords(), context_tokens=settings.pop("context", 8), cache_directory=None)


def test_lengths_count_all_messages_and_nothing_is_cut(write_jsonl: Callable[..., str]) -> None:
    rows = [
        {"prompt": [user("one two"), assistant("three"), user("four")]},  # 4 words and 2 for the template
        {"prompt": [SYSTEM, user("one two three four five six")]},  # 8 and 1: over the context
        {"prompt": [user("a b"), assistant("c d"), user("e f")]},  # 6 and 2
        {"prompt": [user("just one message of seven words here")]},  # cut as any text
    ]
    data = prepare(rows, write_jsonl)
    assert {len(prompt.text.split()) for prompt in data.train} == {4, 6, 7}
    assert data.statistics["n_too_long"] == 1
    data = prepare(rows, write_jsonl, prompt_tokens=[3, 6])
    assert data.statistics["n_uncuttable"] == 2
    assert sum(prompt.messages is not None for prompt in data.train) == 1
    assert max(len(prompt.text.split()) for prompt in data.train) <= 6


def test_conversations_survive_the_cache_and_meet_no_twin(write_jsonl: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"prompt": [SYSTEM, user(f"number {i}")]} for i in range(9)]
    block = PromptSettings(prompts=write_jsonl("a.jsonl", rows), validation_fraction=0.0, heldout_fraction=0.0)
    first, again = (prepare_prompts(block, ChatWords(), context_tokens=9, cache_directory=tmp_path) for _ in "ab")
    assert first == again
    assert first.train[0].messages is not None
    twins = write_jsonl("b.jsonl", [{"prompt": "NUMBER 3"}])
    leaky = block.model_copy(update={"heldout": twins})
    with pytest.raises(LeakError, match="share 1 prompts"):
        prepare_prompts(leaky, ChatWords(), context_tokens=9, cache_directory=None)


def test_conversations_as_text_in_a_table(write_jsonl: Callable[..., str]) -> None:
    rows = [{"prompt": str([user(f"hello {i}"), assistant("it's me"), user("ok")])} for i in range(5)]
    data = prepare(rows, write_jsonl)
    assert data.train[0].messages is not None
    assert data.train[0].messages[1] == ("assistant", "it's me")
