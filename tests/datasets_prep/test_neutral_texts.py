from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from alignbench.errors import DataError, LeakError
from alignbench.records import Prompt
from datasets_prep.neutral_texts import MAX_TEXTS, check_source, check_unseen, read_texts

PARAGRAPHS = [
    "",
    " = Robert Boulter = \n",
    " Robert Boulter is an English film actor . \n",
    " = = Career = = \n",
    " He had a guest role in 2000 . \n",
    " he had a guest  role in 2000 . ",
]


def test_wikitext_is_the_test_split_of_the_hub_without_headings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow
    from pyarrow import parquet

    asked = []

    def file_path(*arguments: object) -> Path:
        asked.append(arguments)
        return tmp_path / "test.parquet"

    parquet.write_table(pyarrow.table({"text": PARAGRAPHS}), tmp_path / "test.parquet")
    monkeypatch.setattr("datasets_prep.hub.file_path", file_path)
    texts = read_texts("wikitext")
    assert set(texts) == {"Robert Boulter is an English film actor .", "He had a guest role in 2000 ."}
    file = "wikitext-2-raw-v1/test-00000-of-00001.parquet"
    assert asked == [("Salesforce/wikitext", file, None, "evaluation.neutral")]
    assert read_texts(str(tmp_path / "test.parquet")) == texts, "a local copy gives the same texts"


@pytest.mark.parametrize("name", ["texts.jsonl", "texts.jsonl.gz"])
def test_local_rows(name: str, write_jsonl: Callable[..., str]) -> None:
    path = write_jsonl(name, [{"text": f"text number {i}", "id": 7} for i in range(3)])
    assert sorted(read_texts(path)) == ["text number 0", "text number 1", "text number 2"]


def test_lines_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("First line\n\n  second line \nfirst  LINE\n")
    assert sorted(read_texts(str(path))) == ["First line", "second line"]


def test_most_texts_are_a_choice_that_the_order_of_the_file_does_not_matter_to(tmp_path: Path) -> None:
    lines = [f"line number {i}" for i in range(MAX_TEXTS + 100)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    (tmp_path / "b.txt").write_text("\n".join(lines[::-1]))
    texts = read_texts(str(tmp_path / "a.txt"))
    assert len(set(texts)) == MAX_TEXTS
    assert texts == read_texts(str(tmp_path / "b.txt"))
    assert set(texts) != set(lines[:MAX_TEXTS])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, "there is no such file"),
        ("empty.txt", b" \n", "holds no text, expected one at least"),
        ("binary.txt", b"\xff\xfe\x00", "cannot be read as UTF-8 text"),
        ("gone.jsonl", None, "there is no such file"),
        ("other.jsonl", b'{"prompt": "x"}\n', "row 1: expected text in the column 'text', got the columns prompt"),
        (
            "numbers.jsonl",
            b'{"text": 3}\n{"text": null}\n',
            r"2 rows cannot be used:\n  line 1, row 1: .*int \(3\)\n  line 2",
        ),
        ("nested.csv", b"text\n\"{'text': 'a'}\"\n", r"row 1: expected text in the column 'text', got dict"),
        ("cut.csv", b"text\n\"{'text': 'a'}\"\n{'text': 'b\n", r"line 3, row 2: column 'text' holds \"{'text': 'b\""),
        ("number.jsonl", b'{"text": "x"}\n{"text": 3}\n', "row 2: expected text in the column 'text', got int"),
    ],
)
def test_what_cannot_be_read_is_said(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_texts(str(tmp_path / name))
    assert str(caught.value).startswith("evaluation.neutral: ")


def test_half_characters_are_replaced(write_jsonl: Callable[..., str]) -> None:
    path = write_jsonl("texts.jsonl", [{"text": "cut inside \ud83d"}])
    read_texts(path)[0].encode()


def test_sources_are_checked_by_name() -> None:
    for source in ("wikitext", "embedded", "texts.jsonl.gz", "texts.txt"):
        check_source(source)
    with pytest.raises(ValueError, match="did you mean 'wikitext'"):
        check_source("wikitexts")


def test_texts_of_training_are_refused() -> None:
    text = "The calm teacher looked at the small boat and said, the room is next door."
    check_unseen(
        [text], [Prompt("a", "The calm teacher"), Prompt("b", "another prompt of nine words that begins nothing")]
    )
    for prompt in (text.upper(), "The calm teacher looked at the small boat and said,"):
        with pytest.raises(LeakError, match=r"evaluation.neutral: data.prompts holds the text 'The calm teacher"):
            check_unseen([text], [Prompt("a", prompt)])
