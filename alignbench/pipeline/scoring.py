"""Scores of any scorer on the texts of a file."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignbench.errors import DataError, ScorerError, UsageError
from alignbench.records import Scorer
from datasets_prep import local_files
from datasets_prep.columns import cell, find_column, missing
from datasets_prep.rows import faults_error, place, shown
from datasets_prep.stored_completions import COMPLETION_COLUMNS, PROMPT_COLUMNS

WRITTEN = (".jsonl", ".csv", ".parquet")


def texts_of(
    file: Path, column: str | None, prompt_column: str | None
) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Returns the rows of a file, and of each its prompt (empty where there is no such column) and its text.

    A .txt file has a text a line, in the column `text`. DataError where it cannot be read, or a cell holds no text.
    """
    if file.suffix == ".txt":
        rows = [{"text": line} for line in _read(file).splitlines()]
    else:
        rows = local_files.read_rows(file, "FILE")
    usual = ("text", *COMPLETION_COLUMNS) if file.suffix == ".txt" else COMPLETION_COLUMNS
    found = find_column(rows, column, usual)
    if found is None:
        raise missing(rows, "text", column, usual, f"FILE: {file}", "--column NAME")
    prompts = find_column(rows, prompt_column, PROMPT_COLUMNS)
    if prompts is None and prompt_column is not None:
        raise missing(rows, "prompt", prompt_column, PROMPT_COLUMNS, f"FILE: {file}", "--prompt-column NAME")
    faults = [
        f"{place(rows, i)}: column {name!r} holds {shown(cell(row, name))}, expected a text"
        for i, row in enumerate(rows)
        for name in (found, prompts)
        if name is not None and not isinstance(cell(row, name), str)
    ]
    if faults:
        raise faults_error(f"FILE: {file}", faults)
    return rows, [str(cell(row, prompts)) if prompts else "" for row in rows], [str(cell(row, found)) for row in rows]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"FILE: {file}: cannot be read as text ({error})") from error


def scores_of(scorer: Scorer, prompts: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """Returns a number for each text, None where the scorer gives none; ScorerError where it gives too few."""
    scores = scorer.score(prompts, texts)
    if len(scores) != len(texts):
        raise ScorerError(f"the scorer gave {len(scores)} numbers for {len(texts)} texts")
    return scores


def require_writable(output: Path | None) -> None:
    """UsageError where scores cannot be written under a name."""
    if output is not None and output.suffix not in WRITTEN:
        raise UsageError(f"--output: got {str(output)!r}, expected a name that ends in {', '.join(WRITTEN)}")


def write_scores(rows: Sequence[dict[str, Any]], output: Path | None) -> None:
    """Writes rows as the name of a file says; as JSON lines to the standard output where there is none."""
    if output is not None and output.suffix == ".parquet":
        import pandas as pd

        pd.DataFrame(rows).to_parquet(output, index=False)
    elif output is not None and output.suffix == ".csv":
        with output.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if output is None:
            sys.stdout.write(lines)
        else:
            output.write_text(lines, encoding="utf-8")
