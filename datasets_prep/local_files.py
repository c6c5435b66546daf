"""Rows of local files: JSONL (plain or gzip), JSON with a list, CSV, parquet."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from alignbench.errors import DataError, did_you_mean
from datasets_prep.rows import FileRows, faults_error, shown

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".parquet", ".json")


def read_rows(path: Path, key: str) -> list[dict[str, Any]]:
    """Returns the rows of a file.

    Args:
        path: The file; its suffix decides how it is read.
        key: The recipe key that names the file, for messages.

    Raises:
        DataError: The file is missing, empty, of another kind or damaged; names all lines that cannot be read.
    """
    origin = f"{key}: {path}"
    if not path.exists():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{origin}: there is no such file{did_you_mean(path.name, siblings) or '.'}")
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{origin}: cannot tell the kind of file, expected a name that ends in {', '.join(SUFFIXES)}.")
    try:
        rows = _rows(path, origin)
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise DataError(f"{origin}: cannot be read ({error}). Is it complete, and really of this kind?") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{origin}: is not UTF-8 text but binary or of another encoding ({error.reason}){_where_not_utf8(path)}."
        ) from error
    if not rows:
        raise DataError(f"{origin}: holds no rows, expected at least one.")
    return rows


def _rows(path: Path, origin: str) -> list[dict[str, Any]]:
    if path.name.endswith(".parquet"):
        return _parquet_rows(path, origin)
    if path.name.endswith(".json"):
        return _json_list(path, origin)
    if path.name.endswith(".csv"):
        with path.open(encoding="utf-8-sig", newline="") as file, _fields_of_any_length():
            return _csv_rows(file, origin)
    if path.name.endswith(".gz"):
        with gzip.open(path, "rt", encoding="utf-8-sig") as file:
            return _json_rows(file, origin)
    with path.open(encoding="utf-8-sig") as file:
        return _json_rows(file, origin)


def _json_list(path: Path, origin: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        raise DataError(
            f"{origin}: is not JSON ({error}); one object per line is for a name that ends in .jsonl."
        ) from error
    if not isinstance(rows, list):
        raise DataError(f"{origin}: holds a {type(rows).__name__}, expected a list of objects.")
    if strays := [
        f"row {i + 1}: holds a {type(row).__name__}" for i, row in enumerate(rows) if not isinstance(row, dict)
    ]:
        raise faults_error(origin, strays, "Expected a list of JSON objects.")
    return rows


def _json_rows(file: TextIO, origin: str) -> FileRows:
    rows, lines, faults = [], [], []
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.append(f"line {number}: is not JSON ({error}): {shown(line.strip())}")
            continue
        if not isinstance(row, dict):
            faults.append(f"line {number}: holds a {type(row).__name__}: {shown(row)}")
            continue
        rows.append(row)
        lines.append(number)
    if faults:
        raise faults_error(origin, faults, "Expected one JSON object per line.")
    return FileRows(rows, lines)


def _csv_rows(file: TextIO, origin: str) -> FileRows:
    names: list[str] = []
    rows, lines, faults = [], [], []
    reader = csv.reader(file, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            faults.append(f"line {number}: is not CSV ({error})")
            continue
        if cells is None:
            break
        if not cells:  # a line with nothing in it
            continue
        if not names:
            names = cells
            _check_header(names, origin)
        elif len(cells) > len(names):
            faults.append(f"line {number}: has more fields than the header's {len(names)}: {shown(cells)}")
        else:
            rows.append(dict(zip_longest(names, cells)))
            lines.append(number)
    if faults:
        raise faults_error(origin, faults)
    return FileRows(rows, lines)


def _check_header(names: Sequence[str], origin: str) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{origin}: the header names {', '.join(map(repr, repeated))} more than once.")


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Lifts the limit of 131,072 characters that the csv module has for a field, for the whole process, and sets it."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _where_not_utf8(path: Path) -> str:
    """Names the first line that is not UTF-8, and says how many are not."""
    with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
        bad = [number for number, line in enumerate(file, start=1) if not _is_utf8(line)]
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return f", first in line {bad[0]}{more}" if bad else ""


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _parquet_rows(path: Path, origin: str) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{origin}: is not a parquet file, or a damaged one ({error}).") from error
    return rows
