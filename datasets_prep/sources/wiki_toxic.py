"""Comments of Wikipedia's talk pages with a label, toxic (1) or not (0): `OxAISH-AL-LLM/wiki_toxic` on the hub.

The data set is read from its files `train.csv`, `validation.csv` and `test.csv` with the columns `id`, `comment_text`
and `label`, not by the loading script beside them, which `datasets` no longer runs. A local copy works too: the path
of the folder or of one of the files.

The label is the prompt's toxicity. Rows keep the order of their file, since `trl-detox-v1` asks for the first ones;
and a comment is cut after 2,000 characters, as there, or one that is too long for a policy's context would be skipped.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignbench.errors import DataError
from datasets_prep import hub, local_files
from datasets_prep.rows import Row, like
from datasets_prep.sources.base import Request, Source

NAME = "wiki_toxic"
HUB_ID = "OxAISH-AL-LLM/wiki_toxic"
SPLITS = ("train", "validation", "test")
MAX_CHARS = 2000
_TEXT, _LABEL = "comment_text", "label"


def read_rows(request: Request) -> list[dict[str, Any]]:
    """Returns the rows of one split in the order of its file, with the columns that prompts are usually read from.

    Raises:
        DataError: There is no such split, or the file can be neither found nor read.
    """
    split, key, folder = request.split or "train", request.key, request.folder
    if split not in SPLITS:
        raise DataError(f"{key}: {NAME} has no split {split!r}, expected one of {', '.join(SPLITS)}.")
    name = f"{split}.csv"
    path = hub.file_path(HUB_ID, name, request.revision, key) if folder is None else folder / name
    rows = local_files.read_rows(path, key)
    usual = with_usual_columns(rows)
    if usual is None:
        names = ", ".join(map(str, rows[0]))
        raise DataError(f"{key}: {name} of {NAME} has the columns {names}, expected id, {_TEXT} and {_LABEL}.")
    return usual


def is_copy(path: Path) -> bool:
    """True for a folder with a `test.csv`, or for a .csv file, that has the columns of this data set."""
    file = path / "test.csv" if path.is_dir() else path
    if file.suffix != ".csv" or not file.is_file():
        return False
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            header = next(csv.reader(opened), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False  # whoever reads it in earnest says what is wrong with it
    return {_TEXT, _LABEL} <= set(header)


def with_usual_columns(rows: Sequence[Row]) -> list[dict[str, Any]] | None:
    """Returns the rows with `prompt`, the comment's first 2,000 characters, and `toxicity`, the label.

    None where they lack the columns of this data set, or have one that a prompt is usually read from.
    """
    names = set(rows[0]) if rows else set()
    if not {_TEXT, _LABEL} <= names or names & {"prompt", "text", "toxicity"}:
        return None
    return like(rows, ({**row, "prompt": _start(row[_TEXT]), "toxicity": row[_LABEL]} for row in rows))


def _start(text: Any) -> Any:
    return text[:MAX_CHARS] if isinstance(text, str) else text


plugin = Source(
    read_rows,
    heldout={"split": "test", "min_prompt_toxicity": 1.0},
    in_file_order=True,
    hub_id=HUB_ID,
    aliases=(HUB_ID,),
    is_copy=is_copy,
    of_layout=with_usual_columns,
)
