"""Cells that hold a structure as text are unpacked or refused; prompts that look a little like one are left alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from alignbench.errors import DataError
from alignbench.records import Prompt
from datasets_prep.columns import read_prompts
from datasets_prep.nested_text import parsed, unpacked
from datasets_prep.prepare import prepare_prompts
from datasets_prep.prompt_lengths import TextTokenizer
from datasets_prep.settings import ColumnMapping, PromptSettings

NAN = float("nan")
NESTED = [
    {"prompt": {"text": f'He said: "it\'s number {i}"\nand {{left}} \\n', "toxicity": None if i == 3 else i / 20}}
    for i in range(20)
]


def read(cells: Sequence[object], column: str = "prompt", **mapping: str) -> list[Prompt]:
    rows, _ = unpacked([{column: cell} for cell in cells], ColumnMapping(**mapping), "data.prompts: f")
    return read_prompts(rows, ColumnMapping(**mapping), origin="data.prompts: f", needs_toxicity=False)


def as_numpy(row: dict[str, Any]) -> str:
    return str(
        {name: np.float64(NAN if part is None else part) if name == "toxicity" else part for name, part in row.items()}
    )


WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "python": str,
    "python with nan": lambda row: str(row).replace("None", "nan"),
    "numpy scalars": as_numpy,
    "json": json.dumps,
    "json with indents": lambda row: json.dumps(row, indent=1),
    "json with NaN": lambda row: json.dumps({name: NAN if part is None else part for name, part in row.items()}),
    "json, twice": lambda row: json.dumps(json.dumps(row)),
    "json in python's quotes": lambda row: repr(json.dumps(row)),
    "with a byte order mark and white space": lambda row: f"\ufeff {row} \n",
    "OrderedDict": lambda row: f"OrderedDict({row})",
}  # fmt: skip


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_nested_column_as_text_is_the_nested_column(
    write: Callable[[dict[str, Any]], str], words: TextTokenizer, write_jsonl: Callable[..., str], tmp_path: Path
) -> None:
    cells = [{"prompt": write(row["prompt"])} for row in NESTED]
    pd.DataFrame(cells).to_csv(tmp_path / "a.csv", index=False)
    files = [str(tmp_path / "a.csv"), write_jsonl("a.jsonl", cells), write_jsonl("whole.jsonl", NESTED)]
    csv, jsonl, whole = (
        prepare_prompts(
            PromptSettings(prompts=file, max_prompt_toxicity=0.9, validation_fraction=0.0, heldout_fraction=0.0),
            words,
            context_tokens=99,
            cache_directory=None,
        )
        for file in files
    )
    assert csv.train == jsonl.train == whole.train
    assert len(whole.train) == 18, "one without a toxicity, one above 0.9"
    assert (csv.statistics["n_unpacked"], whole.statistics["n_unpacked"]) == (20, 0)


def test_a_named_part_is_found_whatever_it_is_called() -> None:
    cells = [str({"body": f"b {i}", "harm": 0.5}) for i in range(4)]
    prompts = read(cells, "request", prompt="request.body", toxicity="request.harm")
    assert [(prompt.text, prompt.toxicity) for prompt in prompts] == [(f"b {i}", 0.5) for i in range(4)]


def test_a_part_of_another_name_is_proposed() -> None:
    with pytest.raises(DataError, match=r"row 1: column 'prompt' holds a dict.*perhaps prompt\.content, prompt\.lang"):
        read([str({"content": "a", "lang": "en"})])


REFUSED = {
    "cut off": ["{'text': 'one', 'toxicity': 0.1}", "{'text': 'the second was cut o"],
    "all cut off": ["{'text': 'one was cut", '{"text": "another'],
    "a plain one among them": ["{'text': 'one'}", "{'text': 'two'}", "plain"],
    "a known one among plain ones": ["plain", "also plain", "{'text': 'one', 'toxicity': 0.1}"],
    "lists": ["['one']", "['two', 'three']"],
    "lists of numpy": ["['one' 'two']", "array(['two'], dtype=object)"],
    "token ids": ["[101, 2003, 102]", "[101, 102]"],
    "bytes": ["b'one'", 'b"it\'s two"'],
    "messages of numpy, without commas": ["[{'role': 'user', 'content': 'a'}\n {'role': 'assistant', 'content': 'b'}]"],
    "badly unescaped": ['{""text"": ""one""}', '{""text"": ""two""}'],
    "without quotes": ["{text: one, toxicity: 0.1}", "{text: two, toxicity: 0.2}"],
    "mappings of other parts, by Python": [
        "{'instruction': 'one', 'input': ''}",
        "{'instruction': 'two', 'input': None}",
    ],
    "parts in another case": ["{'Text': 'one', 'Toxicity': 0.1}", "{'Text': 'two', 'Toxicity': 0.2}"],
    "rows of Spark": ["Row(text='one', toxicity=0.1)", "Row(text='two', toxicity=0.1)"],
}


@pytest.mark.parametrize("cells", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_unpacked_is_refused_by_row_and_column(cells: list[str]) -> None:
    with pytest.raises(
        DataError, match=r"data\.prompts: f(, row \d: column 'prompt' holds |: \d rows cannot be used:)"
    ):
        read(cells)


def test_the_line_is_named(words: TextTokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt\n\"{'text':\n'one'}\"\n{'text': 'tw\n")
    with pytest.raises(DataError, match=r"a\.csv, line 4, row 2: column 'prompt' holds \"\{'text': 'tw\""):
        prepare_prompts(
            PromptSettings(prompts=str(tmp_path / "a.csv")), words, context_tokens=9, cache_directory=None
        )  # fmt: skip


GENUINE = {
    "code": ["{ int x = 1; }", "def f(x):\n  return {'text': x}", "[1, 2, 3] is a list"],
    "templates": ["{name} is here", "{{ text }}", "{text}", "[INST] Hello [/INST]"],
    "json tasks": ['{"name": "Ann", "age": 5}', '{"name": "Bob", "age": 7}'],
    "json tasks with indents": ['{\n "name": "Ann"}', '{\n "name": "Bob"}'],
    "one python prompt among others": ["{'name': 'Ann'}", "plain", "another"],
    "one json prompt among others": ['{"text": "hi"}', "plain", "another", "Repair: {'text': "],
    "one list among others": ["[1, 2, 3]", "sort this", "and that"],
    "quotes": ['"I love you"', "'quoted'", "\"'both'\""],
    "calls": ["print('hi')", "array", "text: what is this?"],
    "numbers": ["12", "1e5", "nan"],
    "deep": ["[" * 5000, "{" * 5000, "{'a': " * 3000],
}


@pytest.mark.parametrize("cells", GENUINE.values(), ids=GENUINE)
def test_genuine_prompts_stay_as_they_stand(cells: list[str]) -> None:
    assert [prompt.text for prompt in read(cells)] == cells


@pytest.mark.parametrize("write", [str, json.dumps])
def test_conversations_of_another_layout_are_no_prompts_under_any_name(write: Callable[[object], str]) -> None:
    cells = [write([{"from": "human", "value": f"hi {i}"}]) for i in range(3)]
    with pytest.raises(DataError, match=r"(?s)column 'conversations' holds .*no prompt"):
        read(cells, "conversations", prompt="conversations")


def test_lists_are_prompts_where_the_user_says_so() -> None:
    cells = ["[3, 1, 2]", "[9, 8]"]
    assert [prompt.text for prompt in read(cells, prompt="prompt")] == cells


def test_another_column_is_not_looked_into() -> None:
    rows: list[dict[str, object]] = [
        {"prompt": f"p {i}", "text": "{'text': 'x'}", "meta": "{'text': 1}"} for i in range(3)
    ]
    assert unpacked(rows, ColumnMapping(), "f") == (rows, 0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': -inf, 'b': -1.5, 'c': True, 'd': (1, 2)}", {"a": float("-inf"), "b": -1.5, "c": True, "d": [1, 2]}),
        ("{'a': __import__('os').getcwd()}", None),
        ("{'a': open('x')}", None),
        ("{'a', 'b'}", None),
        ("{**x}", None),
        ("{'a': f'{1}'}", None),
    ],
)
def test_only_literals_are_read(text: str, value: object) -> None:
    assert parsed(text) == value
