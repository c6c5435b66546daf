"""Files of completions that other programs have written."""

import json

import pandas as pd
import pytest

from alignbench.errors import DataError
from alignbench.records import Prompt
from datasets_prep.stored_completions import StoredAnswer, read_stored_completions

ROWS = [("the dog", " runs"), ("a cat", " sings"), ("the dog", " sleeps"), ("a cat", None)]
EXPECTED = {"the dog": (" runs", " sleeps"), "a cat": (" sings", "")}


def texts(answers):
    return {answers.texts[key]: tuple(one.text for one in found) for key, found in answers.by_text.items()}


@pytest.mark.parametrize(
    ("prompt", "completion", "named"),
    [
        ("prompt", "completion", {}),
        ("instruction", "output", {}),
        ("q", "a", {"prompt_column": "q", "completion_column": "a"}),
    ],
)
def test_rows_by_usual_names_and_by_named_columns(tmp_path, prompt, completion, named):
    frame = pd.DataFrame(ROWS, columns=[prompt, completion])
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.csv", index=False)
    for name in ("a.jsonl", "a.parquet", "a.csv"):
        answers = read_stored_completions(tmp_path / name, "--completions", **named)
        assert texts(answers) == EXPECTED
        assert (answers.prompt_column, answers.completion_column) == (prompt, completion)


def test_several_completions_in_a_row_and_how_they_ended(tmp_path):
    rows = [
        {
            "prompt": {"text": "the dog"},
            "generations": [{"text": " runs"}, {"text": " sleeps"}],
            "finish_reason": "length",
        },
        {"prompt": {"text": "a cat"}, "generations": [" sings"]},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answers = read_stored_completions(tmp_path / "a.jsonl", "--completions")
    dog, cat = answers.by_text.values()
    assert dog == (StoredAnswer(" runs", "length"), StoredAnswer(" sleeps", "length"))
    assert cat == (StoredAnswer(" sings", "unknown"),)


def test_a_prompt_is_known_by_its_text_or_by_what_it_was_cut_from(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "The  dog runs home", "completion": "x"}))
    answers = read_stored_completions(tmp_path / "a.jsonl", "--completions")
    [key] = answers.by_text
    assert answers.of(Prompt("p", "the dog", whole_text_hash=key))[0].text == "x"
    assert answers.of(Prompt("p", "the dog runs home"))[0].text == "x"
    assert answers.of(Prompt("p", "the dog")) == ()


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (
            [{"prompt": "a", "said": "b"}],
            r"has no completion column .*Its columns are: prompt, said. Name one with --column",
        ),
        ([{"prompt": 3, "completion": "b"}], "line 1, row 1: the prompt is 3, expected a text"),
        ([{"prompt": "a", "completion": ["b", 4]}], "the completion is 4, expected a text"),
    ],
)
def test_what_cannot_be_read_says_so(tmp_path, rows, wanted):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=wanted):
        read_stored_completions(tmp_path / "a.jsonl", "--completions")
