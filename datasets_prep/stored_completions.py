"""Completions that another program has drawn and stored: rows of a prompt and a completion, or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignbench.records import FinishReason, Prompt
from datasets_prep import local_files
from datasets_prep.columns import cell, find_column, missing, without_surrogates
from datasets_prep.rows import Row, faults_error, place, shown
from datasets_prep.splits import whole_text_hash

PROMPT_COLUMNS = ("prompt.text", "prompt", "instruction", "question", "query", "input")
COMPLETION_COLUMNS = (
    *("completion", "completions", "generation", "generations", "response", "responses", "output", "outputs"),
    *("generated_text", "continuation.text", "continuation", "answer", "text"),
)
FINISH_COLUMN = "finish_reason"
_FINISHES: Mapping[str, FinishReason] = {"eos": "eos", "stop": "stop", "length": "length"}


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """One completion as it was stored."""

    text: str
    finish: FinishReason
    """`unknown` where the rows do not say."""


@dataclass(frozen=True, slots=True)
class StoredAnswers:
    """What a file holds."""

    by_text: Mapping[str, tuple[StoredAnswer, ...]]
    """By the hash of the prompt's text (`splits.whole_text_hash`), in the order of the rows."""
    texts: Mapping[str, str]
    """The prompts' texts by the same hashes."""
    prompt_column: str
    completion_column: str

    def of(self, prompt: Prompt) -> tuple[StoredAnswer, ...]:
        """Returns the completions of a prompt, whose text the file has as it was given or before it was cut."""
        keys = whole_text_hash(Prompt("", prompt.text)), whole_text_hash(prompt)
        return next((self.by_text[key] for key in keys if key in self.by_text), ())


def read_stored_completions(
    path: Path, key: str, prompt_column: str | None = None, completion_column: str | None = None
) -> StoredAnswers:
    """Reads a .jsonl, .json, .csv or .parquet file.

    A row has a prompt and a completion, or a list of them: texts, or mappings with a `text`. A row without a
    completion is one that is empty.

    Args:
        path: The file.
        key: What names it, for messages.
        prompt_column: Column of the prompt; None: the first of the usual names.
        completion_column: The same of the completion.

    Raises:
        DataError: The file cannot be read, or lacks a column, or a cell holds no text; lists all such rows.
    """
    rows, origin = local_files.read_rows(path, key), f"{key}: {path}"
    columns = {}
    for name, wanted, usual in (
        ("prompt", prompt_column, PROMPT_COLUMNS),
        ("completion", completion_column, COMPLETION_COLUMNS),
    ):
        found = find_column(rows, wanted, usual)
        if found is None:
            raise missing(rows, name, wanted, usual, origin, f"--column {name}=NAME")
        columns[name] = found
    by_text: dict[str, list[StoredAnswer]] = {}
    texts: dict[str, str] = {}
    faults = []
    for index, row in enumerate(rows):
        try:
            prompt, answers = _text(cell(row, columns["prompt"]), "prompt"), _answers(row, columns["completion"])
        except ValueError as error:
            faults.append(f"{place(rows, index)}: {error}")
            continue
        hashed = whole_text_hash(Prompt("", prompt))
        texts.setdefault(hashed, prompt)
        by_text.setdefault(hashed, []).extend(answers)
    if faults:
        raise faults_error(origin, faults)
    return StoredAnswers({key: tuple(found) for key, found in by_text.items()}, texts, *columns.values())


def _answers(row: Row, column: str) -> list[StoredAnswer]:
    value, finish = cell(row, column), _FINISHES.get(str(cell(row, FINISH_COLUMN)), "unknown")
    items: Sequence[Any] = value if isinstance(value, list) else [value]
    texts = [item.get("text") if isinstance(item, Mapping) else item for item in items]
    return [StoredAnswer(_text("" if text is None else text, "completion"), finish) for text in texts]


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"the {what} is {shown(value)}, expected a text")
    return without_surrogates(value)
