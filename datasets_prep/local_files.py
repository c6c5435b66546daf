"""Rows of local files: JSONL (plain or gzip), CSV, parquet."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from alignbench.errors import DataError, did_you_mean

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".parquet")


def read_rows(path: Path, key: str) -> list[dict[str, Any]]:
    """Returns the rows of a file.

    Args:
        path: The file; its suffix decides how it is read.
        key: The recipe key that names the file, for messages.

    Raises:
        DataError: The file is missing, empty, of another kind or damaged; names the line where there is one.
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
        raise DataError(f"{origin}: is not UTF-8 text but binary or of another encoding ({error.reason}).") from error
    if not rows:
        raise DataError(f"{origin}: holds no rows, expected at least one.")
    return rows


def _rows(path: Path, origin: str) -> list[dict[str, Any]]:
    if path.name.endswith(".parquet"):
        return _parquet_rows(path, origin)
    if path.name.endswith(".csv"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(_csv_rows(file, origin))
    if path.name.endswith(".gz"):
        with gzip.open(path, "rt", encoding="utf-8-sig") as file:
            return list(_json_rows(file, origin))
    with path.open(encoding="utf-8-sig") as file:
        return list(_json_rows(file, origin))


def _json_rows(file: TextIO, origin: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{origin}, line {number}: is not JSON ({error}). Expected one JSON object per line."
            ) from error
        if not isinstance(row, dict):
            raise DataError(
                f"{origin}, line {number}: holds a {type(row).__name__}, expected one JSON object per line."
            )
        yield row


def _csv_rows(file: TextIO, origin: str) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(file, strict=True)
    try:
        names = reader.fieldnames or []
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise DataError(f"{origin}: the header names {', '.join(map(repr, repeated))} more than once.")
        for row in reader:
            if len(row) > len(names):
                raise DataError(f"{origin}, line {reader.line_num}: has more fields than the header's {len(names)}.")
            yield row
    except csv.Error as error:
        raise DataError(f"{origin}, line {reader.line_num}: is not CSV ({error}).") from error


def _parquet_rows(path: Path, origin: str) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{origin}: is not a parquet file, or a damaged one ({error}).") from error
    return rows
