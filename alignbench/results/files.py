"""Files of a run that are either whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from alignbench.errors import ResultsError, UsageError
from alignbench.results.json_values import plain
from alignbench.results.schema import Record

if TYPE_CHECKING:
    import pandas as pd


def make_directory(results: Path, folder: Path) -> None:
    """Makes a folder in the results directory; UsageError, or ResultsError, where there can be none."""
    for path in (results, *results.parents):
        if path.exists() and not path.is_dir():
            raise UsageError(
                f"results path {results}: {path} is a file, expected a directory; choose another --results"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(f"cannot write to {folder}: {error.strerror}; choose another --results") from None


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Writes a parquet file, atomically; numbers that are not finite become null."""
    floats = frame.select_dtypes("float").columns
    frame = frame.assign(**{name: frame[name].where(frame[name].abs() < float("inf")) for name in floats})
    scratch = path.with_name(path.name + ".new")
    frame.to_parquet(scratch, index=False)
    os.replace(scratch, path)


def write_record(path: Path, record: Record) -> None:
    """Writes a JSON file of a run, atomically."""
    write_atomically(path, json.dumps(plain(record), indent=1) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Writes rows for people to read, as JSON lines, atomically."""
    write_atomically(path, "".join(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows))


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is afterwards either as before or whole, whatever happens in between."""
    scratch = path.with_name(path.name + ".new")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def rows_before(path: Path, first_step: int | None) -> list[str]:
    """Returns the lines of steps before `first_step` (None: of all steps); a line that a kill has torn is dropped."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if line.endswith("\n") and step is not None and (first_step is None or step < first_step):
            kept.append(line)
    return kept
