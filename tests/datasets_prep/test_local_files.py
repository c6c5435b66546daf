from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest

from alignbench.errors import DataError
from datasets_prep.local_files import read_rows

ROWS = [{"id": "a", "text": "Café, \u2028“quoted”\nline"}, {"id": "b", "text": "second"}]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.csv", "rows.parquet"])
def test_every_kind_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    frame, path = pd.DataFrame(ROWS), tmp_path / name
    if name.endswith(".csv"):
        frame.to_csv(path, index=False)
    elif name.endswith(".parquet"):
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True, compression="gzip" if name.endswith(".gz") else None)
    assert read_rows(path, "data.prompts") == ROWS


def test_nested_parquet_stays_nested(tmp_path: Path) -> None:
    rows = [{"prompt": {"text": "a", "toxicity": 0.5}}]
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet", "data.prompts") == rows


def test_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n{"text": "b"}\n')
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext\r\na\r\n")
    assert read_rows(tmp_path / "a.jsonl", "k") == [{"text": "a"}, {"text": "b"}]
    assert read_rows(tmp_path / "a.csv", "k") == [{"text": "a"}]


BAD = [
    ("empty.jsonl", b"", "holds no rows"),
    ("blank.jsonl", b"\n\n", "holds no rows"),
    ("empty.csv", b"", "holds no rows"),
    ("header.csv", b"id,text\n", "holds no rows"),
    ("binary.jsonl", b"\x80\x81\x00\xff", "not UTF-8"),
    ("binary.csv", b"text\n\xff\xfe\x00", "not UTF-8"),
    ("binary.jsonl.gz", b"no gzip at all", "cannot be read"),
    ("torn.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99)[:-9], "cannot be read"),
    ("binary.parquet", b"no parquet at all", "not a parquet file"),
    ("torn.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: is not JSON"),
    ("list.jsonl", b'["a"]\n', "line 1: holds a list"),
    ("ragged.csv", b"id,text\n1,a\n2,b,c\n", "line 3: has more fields"),
    ("twice.csv", b"text,text\na,b\n", "names 'text' more than once"),
    ("quote.csv", b'text\n"a"b\n', "is not CSV"),
    ("rows.txt", b"a\n", r"ends in \.jsonl, \.jsonl\.gz, \.csv, \.parquet"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=[name for name, _, _ in BAD])
def test_a_bad_file_is_named_with_its_key_and_its_fault(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(tmp_path / name, "data.heldout")
    assert str(caught.value).startswith(f"data.heldout: {tmp_path / name}")


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"no such file, did you mean 'prompts.jsonl'\?"):
        read_rows(tmp_path / "prompt.jsonl", "data.prompts")
    with pytest.raises(DataError, match=r"no such file\."):
        read_rows(tmp_path / "nowhere" / "x.csv", "data.prompts")


def test_a_directory_with_the_name_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path / "rows.jsonl", "data.prompts")
