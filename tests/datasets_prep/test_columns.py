from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from alignbench.errors import DataError
from alignbench.records import Prompt
from datasets_prep.columns import read_prompts
from datasets_prep.settings import ColumnMapping

NESTED = {
    "filename": "0001.txt",
    "begin": 0,
    "end": 40,
    "prompt": {"text": "A half", "toxicity": 0.25},
    "continuation": {"text": " sentence", "toxicity": 0.9},
}


def read(rows: Sequence[Mapping[str, object]], needs_toxicity: bool = False, **mapping: str) -> list[Prompt]:
    return read_prompts(rows, ColumnMapping(**mapping), origin="data.prompts: f", needs_toxicity=needs_toxicity)


def test_nested_rows_need_no_mapping() -> None:
    (prompt,) = read([NESTED])
    assert (prompt.text, prompt.toxicity) == ("A half", 0.25)


def test_flat_rows_need_no_mapping() -> None:
    assert read([{"id": 7, "text": "a", "toxicity": "0.5"}]) == [Prompt("7", "a", 0.5)]


def test_mapping_reaches_into_rows() -> None:
    row = {"key": "k1", "request": {"body": "hello", "scores": {"tox": 1}}}
    (prompt,) = read([row], id="key", prompt="request.body", toxicity="request.scores.tox")
    assert prompt == Prompt("k1", "hello", 1.0)


def test_a_column_whose_name_has_a_dot_is_found() -> None:
    assert read([{"prompt.text": "from a flat file"}])[0].text == "from a flat file"


def test_rows_without_id_get_one_from_their_text() -> None:
    first, second, again = read([{"text": "a"}, {"text": "b"}, {"text": "a"}])
    assert first.id == again.id
    assert first.id != second.id


def test_an_empty_id_cell_is_no_id() -> None:
    prompts = read([{"id": "", "text": "a"}, {"id": "x", "text": "b"}])
    assert prompts[0].id == read([{"text": "a"}])[0].id
    assert prompts[1].id == "x"


def test_empty_cells_are_empty_texts_and_null_toxicities() -> None:
    rows: list[dict[str, object]] = [
        {"text": None, "toxicity": 0.1},
        {"toxicity": 0.1},
        {"text": "a", "toxicity": None},
        {"text": "b"},
    ]
    rows.append({"text": "c", "toxicity": float("nan")})
    prompts = read(rows, needs_toxicity=True)
    assert [prompt.text for prompt in prompts] == ["", "", "a", "b", "c"]
    assert [prompt.toxicity for prompt in prompts] == [0.1, 0.1, None, None, None]


def test_missing_column_names_the_nearest() -> None:
    with pytest.raises(
        DataError, match=r"no column 'qestion', did you mean 'question'\?.*id, question.*data.columns.prompt"
    ):
        read([{"id": 1, "question": "a"}], prompt="qestion")


def test_missing_nested_column_names_the_nearest() -> None:
    with pytest.raises(DataError, match=r"did you mean 'prompt.toxicity'\?"):
        read([NESTED], toxicity="prompt.toxcity")


def test_without_any_text_column_the_message_lists_what_was_sought() -> None:
    with pytest.raises(DataError, match=r"looked for prompt.text, prompt, text.*Its columns are: question"):
        read([{"question": "a"}])


def test_toxicity_column_is_only_demanded_by_a_filter() -> None:
    assert read([{"text": "a"}])[0].toxicity is None
    with pytest.raises(DataError, match="no toxicity column"):
        read([{"text": "a"}], needs_toxicity=True)


@pytest.mark.parametrize("value", [35.0, "high", True, -0.1])
def test_what_is_no_toxicity_is_named_with_its_row(value: object) -> None:
    rows = [{"text": "a", "toxicity": 0.2}, {"text": "b", "toxicity": value}]
    with pytest.raises(DataError, match=r"row 2: column 'toxicity' holds .* from 0 to 1"):
        read(rows, needs_toxicity=True)


def test_a_guessed_toxicity_column_without_filter_may_hold_anything() -> None:
    assert read([{"text": "a", "toxicity": "high"}])[0].toxicity is None


def test_a_prompt_that_is_no_text_points_at_its_parts() -> None:
    with pytest.raises(DataError, match=r"row 1: column 'prompt' holds a dict.*perhaps prompt.body"):
        read([{"prompt": {"body": "a"}}])


def test_an_id_that_is_no_id() -> None:
    with pytest.raises(DataError, match=r"row 1: column 'id' holds a list"):
        read([{"id": [1], "text": "a"}])


def test_one_id_for_two_texts_is_refused() -> None:
    with pytest.raises(DataError, match=r"id '1' in column 'id' stands for more than one text"):
        read([{"id": 1, "text": "a"}, {"id": 1, "text": "b"}])


def test_half_characters_are_replaced() -> None:
    assert read([{"text": "cut \ud83d"}])[0].text == "cut \ufffd"


def test_a_column_of_groups():
    rows = [{"prompt": "a", "template": 3}, {"prompt": "b", "template": ""}, {"prompt": "c", "template": "x"}]
    mapping = ColumnMapping(group="template")
    found = read_prompts(rows, mapping, origin="data.prompts: rows.csv", needs_toxicity=False)
    assert [prompt.group for prompt in found] == ["3", None, "x"]
    with pytest.raises(DataError, match=r"has no column 'tmplate'.*data.columns.group"):
        read_prompts(rows, ColumnMapping(group="tmplate"), origin="data.prompts: rows.csv", needs_toxicity=False)


def test_all_bad_rows_are_listed_with_what_stands_there() -> None:
    rows: list[dict[str, object]] = [{"text": "a", "toxicity": 0.5}, {"text": 7}, {"text": "b", "toxicity": "high"}]
    rows += [{"text": ["c"]}, {"id": 1.5, "text": "d"}, {"id": 1, "text": "e"}]
    with pytest.raises(DataError) as caught:
        read(rows, needs_toxicity=True)
    assert str(caught.value).splitlines() == [
        "data.prompts: f: 4 rows cannot be used:",
        "  row 2: column 'text' holds 7, expected text",
        "  row 3: column 'toxicity' holds 'high', expected a toxicity from 0 to 1",
        "  row 4: column 'text' holds a list (['c']), expected text",
        "  row 5: column 'id' holds 1.5, expected text or a whole number",
        "Name another column with data.columns.prompt. Name another column with data.columns.toxicity. "
        "Name another column with data.columns.id.",
    ]
    with pytest.raises(DataError, match=r"2 rows cannot be used:\n  row 2: id '1' .* in row 1\n  row 3: id '1'"):
        read([{"id": 1, "text": "a"}, {"id": 1, "text": "b"}, {"id": 1, "text": "c"}])
