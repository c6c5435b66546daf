from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pandas as pd
import pytest

from alignbench.errors import DataError
from datasets_prep.local_files import read_rows
from datasets_prep.rows import place

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


def test_all_bad_lines_are_listed_with_what_stands_there(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n\n["x"]\n{"text": "b"}\nfoo\n')
    (tmp_path / "a.csv").write_text('id,text\n1,a\n2,b,c\n\n"x"y,z\n"4","two\nlines"\n5,d,e\n')
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / "a.jsonl", "k")
    assert str(caught.value).splitlines()[0].endswith("a.jsonl: 3 rows cannot be used:")
    lines = [line.strip().partition(": ")[::2] for line in str(caught.value).splitlines()[1:-1]]
    assert [place for place, _ in lines] == ["line 2", "line 4", "line 6"]
    assert lines[1][1] == "holds a list: ['x']"
    assert lines[2][1].endswith(": 'foo'")
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / "a.csv", "k")
    lines = [line.strip().partition(": ")[::2] for line in str(caught.value).splitlines()[1:]]
    assert [place for place, _ in lines] == ["line 3", "line 5", "line 8"]
    assert lines[2][1] == "has more fields than the header's 2: ['5', 'd', 'e']"


def test_a_long_list_of_bad_lines_is_cut_short_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + "no\n" * 25)
    with pytest.raises(DataError, match=r"25 rows cannot be used:\n(  line \d+: .*\n){10}  and 15 more\n"):
        read_rows(tmp_path / "a.jsonl", "k")


def test_rows_know_the_lines_that_they_begin_in(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"text": "a"}\n\n{"text": "b"}\n')
    (tmp_path / "a.csv").write_text('text\n\n"a\nb"\nc\n')
    assert [place(read_rows(tmp_path / "a.jsonl", "k"), i) for i in (0, 1)] == ["line 2, row 1", "line 4, row 2"]
    assert [place(read_rows(tmp_path / "a.csv", "k"), i) for i in (0, 1)] == ["line 3, row 1", "line 5, row 2"]


def test_lines_of_another_encoding_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text\na\nb caf\xe9\nc\nd na\xefve\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"is not UTF-8 text .*, first in line 3 and 1 more\."):
        read_rows(tmp_path / "a.csv", "k")


def test_a_field_may_be_longer_than_the_csv_module_likes(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    text = "long, \n" * 50_000
    pd.DataFrame({"text": ["short", text]}).to_csv(tmp_path / "a.csv", index=False)
    assert read_rows(tmp_path / "a.csv", "k")[1] == {"text": text}
    (tmp_path / "b.csv").write_text("te" + "x" * 200_000 + "t\na\n")
    assert len(next(iter(read_rows(tmp_path / "b.csv", "k")[0]))) > 200_000
    assert csv.field_size_limit() == limit, "the limit of the process is as it was"
