"""Rows of any layout to prompts: finds the columns, reads the values, names what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from alignbench.errors import DataError, did_you_mean
from alignbench.records import Messages, Prompt, fingerprint
from datasets_prep.conversations import is_conversation, read_conversation
from datasets_prep.rows import Row, faults_error, place, shown
from datasets_prep.settings import ColumnMapping

PROMPT_COLUMNS = ("prompt.text", "prompt", "text", "messages")
TOXICITY_COLUMNS = ("prompt.toxicity", "toxicity")
_N_ROWS_FOR_NAMES = 100
"""Rows that are looked at to list the columns in a message."""
_N_PARTS = 8
"""Parts of a nested cell that a message names."""


def read_prompts(
    rows: Sequence[Row], mapping: ColumnMapping, *, origin: str, needs_toxicity: bool, conversations: bool = False
) -> list[Prompt]:
    """Returns one prompt per row, in row order. A row without text has the text "".

    Args:
        rows: The raw rows; cells may be nested mappings.
        mapping: Names given by the user.
        origin: The key and the source, for messages: `data.prompts: rows.csv`.
        needs_toxicity: True where a filter will look at the toxicity.
        conversations: True where a prompt may be a list of messages, since the recipe has a `chat:` block.

    Raises:
        DataError: A column is missing, or holds what cannot be a text, an id or a toxicity; lists all such rows.
    """
    prompt_column = find_column(rows, mapping.prompt, PROMPT_COLUMNS)
    if prompt_column is None:
        raise missing(rows, "prompt", mapping.prompt, PROMPT_COLUMNS, origin)
    id_column = find_column(rows, mapping.id, ("id",))
    if id_column is None and mapping.id is not None:
        raise missing(rows, "id", mapping.id, ("id",), origin)
    must_be_toxicity = needs_toxicity or mapping.toxicity is not None
    toxicity_column = find_column(rows, mapping.toxicity, TOXICITY_COLUMNS)
    if toxicity_column is None and must_be_toxicity:
        raise missing(rows, "toxicity", mapping.toxicity, TOXICITY_COLUMNS, origin)
    group_column = find_column(rows, mapping.group, ())
    if group_column is None and mapping.group is not None:
        raise missing(rows, "group", mapping.group, (), origin)
    prompts, faults = [], []
    for index, row in enumerate(rows):
        try:
            text, messages = _content(cell(row, prompt_column), prompt_column, conversations)
            toxicity = None
            if toxicity_column is not None:
                toxicity = _toxicity(cell(row, toxicity_column), toxicity_column, must_be_toxicity)
            group = _label(row, group_column, "group")
            own_id = _id(row, id_column, text if messages is None else messages)
            prompts.append(Prompt(own_id, text, toxicity, group=group, messages=messages))
        except _Fault as fault:
            faults.append((f"{place(rows, index)}: {fault}", fault.cure))
    if faults:
        cures = dict.fromkeys(cure for _, cure in faults)
        raise faults_error(origin, [fault for fault, _ in faults], " ".join(cures))
    _check_ids(prompts, id_column, rows, origin)
    return prompts


class _Fault(Exception):  # noqa: N818 - it becomes a line of an error
    """What is wrong with a row, and what would mend it."""

    def __init__(self, column: str, value: object, expected: str, key: str, hint: str = "") -> None:
        named = shown(value) if isinstance(value, str | int | float) else f"a {type(value).__name__} ({shown(value)})"
        super().__init__(f"column {column!r} holds {named}, expected {expected}")
        self.cure = f"Name another column with data.columns.{key}{hint}."


def cell(row: Row, column: str) -> Any:
    """Returns what is in a column, None where there is nothing. A key that itself contains dots wins."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _has_column(row: Row, column: str) -> bool:
    parent, _, last = column.rpartition(".")
    holder = cell(row, parent) if parent else row
    return column in row or (isinstance(holder, Mapping) and last in holder)


def find_column(rows: Sequence[Row], wanted: str | None, usual: Sequence[str]) -> str | None:
    """Returns the wanted column, or the first usual one, that at least one row has."""
    candidates = usual if wanted is None else (wanted,)
    return next((name for name in candidates if any(_has_column(row, name) for row in rows)), None)


def _column_names(row: Row, prefix: str = "") -> Iterator[str]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _column_names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def missing(
    rows: Sequence[Row], key: str, wanted: str | None, usual: Sequence[str], origin: str, named_by: str = ""
) -> DataError:
    """Returns the error for a column that no row has; `named_by` is the recipe's key for it, `data.columns.<key>`."""
    known = list(dict.fromkeys(name for row in islice(rows, _N_ROWS_FOR_NAMES) for name in _column_names(row)))
    sought = f"column {wanted!r}" if wanted is not None else f"{key} column (looked for {', '.join(usual)})"
    hint = "." if wanted is None else did_you_mean(wanted, known) or "."
    columns, option = ", ".join(known) or "none at all", named_by or f"data.columns.{key}"
    return DataError(f"{origin}: has no {sought}{hint} Its columns are: {columns}. Name one with {option}.")


def _content(value: Any, column: str, conversations: bool) -> tuple[str, Messages | None]:
    """Returns the text of a cell, and its messages where it holds a conversation of several."""
    if not is_conversation(value):
        return _text(value, column), None
    if not conversations:
        raise _Fault(column, value, "text: a conversation needs a `chat:` block in the recipe", "prompt")
    try:
        text, messages = read_conversation(value)
    except ValueError as error:
        raise _Fault(column, value, str(error), "prompt") from error
    clean = messages and tuple((role, without_surrogates(content)) for role, content in messages)
    return without_surrogates(text), clean


def _text(value: Any, column: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return without_surrogates(value)
    parts = [f"{column}.{name}" for name in value] if isinstance(value, Mapping) else []
    more = f" and {len(parts) - _N_PARTS} more" if len(parts) > _N_PARTS else ""
    raise _Fault(column, value, "text", "prompt", f", perhaps {', '.join(parts[:_N_PARTS])}{more}" if parts else "")


def without_surrogates(text: str) -> str:
    """Replaces half characters: scraped text cut inside an emoji has them in JSON, and nothing can encode them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _toxicity(value: Any, column: str, must_be_toxicity: bool) -> float | None:
    """Returns the toxicity, None where the cell is empty.

    A column that was only guessed and that no filter looks at may hold anything; it then gives None.
    """
    if value is None or value == "":
        return None
    try:
        number = math.inf if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.inf
    if math.isnan(number):
        return None
    if 0.0 <= number <= 1.0:
        return number
    if not must_be_toxicity:
        return None
    raise _Fault(column, value, "a toxicity from 0 to 1", "toxicity")


def _id(row: Row, column: str | None, content: str | Messages) -> str:
    value = _label(row, column, "id")
    return fingerprint(content) if value is None else value


def _label(row: Row, column: str | None, key: str) -> str | None:
    """Returns a text or whole number as text, None where there is none."""
    value = None if column is None else cell(row, column)
    if value is None or value == "":
        return None
    if isinstance(value, str | int):
        return without_surrogates(str(value))
    raise _Fault(column or "", value, "text or a whole number", key)


def _check_ids(prompts: Sequence[Prompt], column: str | None, rows: Sequence[Row], origin: str) -> None:
    """Refuses ids that stand for two texts: draws and results are keyed by id."""
    first: dict[str, int] = {}
    faults = []
    for index, prompt in enumerate(prompts):
        other = first.setdefault(prompt.id, index)
        if prompts[other].identity != prompt.identity:
            faults.append(
                f"{place(rows, index)}: id {prompt.id!r} in column {column!r} stands for more than one text, another "
                f"one in {place(rows, other)}"
            )
    if faults:
        cure = "Name a column with unique values with data.columns.id (the prompt's own column will do)."
        raise faults_error(origin, faults, cure)
