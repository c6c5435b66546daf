"""Rows of any layout to prompts: finds the columns, reads the values, names what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from alignbench.errors import DataError, did_you_mean
from alignbench.records import Prompt, fingerprint
from datasets_prep.settings import ColumnMapping

Row = Mapping[str, Any]
PROMPT_COLUMNS = ("prompt.text", "prompt", "text")
TOXICITY_COLUMNS = ("prompt.toxicity", "toxicity")
_N_ROWS_FOR_NAMES = 100
"""Rows that are looked at to list the columns in a message."""


def read_prompts(rows: Sequence[Row], mapping: ColumnMapping, *, origin: str, needs_toxicity: bool) -> list[Prompt]:
    """Returns one prompt per row, in row order. A row without text has the text "".

    Args:
        rows: The raw rows; cells may be nested mappings.
        mapping: Names given by the user.
        origin: The key and the source, for messages: `data.prompts: rows.csv`.
        needs_toxicity: True where a filter will look at the toxicity.

    Raises:
        DataError: A column is missing, or holds something that cannot be a text or a toxicity.
    """
    prompt_column = _find_column(rows, mapping.prompt, PROMPT_COLUMNS)
    if prompt_column is None:
        raise _missing(rows, "prompt", mapping.prompt, PROMPT_COLUMNS, origin)
    id_column = _find_column(rows, mapping.id, ("id",))
    if id_column is None and mapping.id is not None:
        raise _missing(rows, "id", mapping.id, ("id",), origin)
    must_be_toxicity = needs_toxicity or mapping.toxicity is not None
    toxicity_column = _find_column(rows, mapping.toxicity, TOXICITY_COLUMNS)
    if toxicity_column is None and must_be_toxicity:
        raise _missing(rows, "toxicity", mapping.toxicity, TOXICITY_COLUMNS, origin)
    group_column = _find_column(rows, mapping.group, ())
    if group_column is None and mapping.group is not None:
        raise _missing(rows, "group", mapping.group, (), origin)
    prompts = []
    for number, row in enumerate(rows, start=1):
        where = f"{origin}, row {number}"
        text = _text(_cell(row, prompt_column), prompt_column, where)
        toxicity = None
        if toxicity_column is not None:
            toxicity = _toxicity(_cell(row, toxicity_column), toxicity_column, where, must_be_toxicity)
        group = _label(row, group_column, where, "group")
        prompts.append(Prompt(_id(row, id_column, text, where), text, toxicity, group=group))
    _check_ids(prompts, id_column, origin)
    return prompts


def _cell(row: Row, column: str) -> Any:
    """Returns what stands in a column, None where there is nothing. A key that itself contains dots wins."""
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
    holder = _cell(row, parent) if parent else row
    return column in row or (isinstance(holder, Mapping) and last in holder)


def _find_column(rows: Sequence[Row], wanted: str | None, usual: Sequence[str]) -> str | None:
    """Returns the wanted column, or the first usual one, that at least one row has."""
    candidates = usual if wanted is None else (wanted,)
    return next((name for name in candidates if any(_has_column(row, name) for row in rows)), None)


def _column_names(row: Row, prefix: str = "") -> Iterator[str]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _column_names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _missing(rows: Sequence[Row], key: str, wanted: str | None, usual: Sequence[str], origin: str) -> DataError:
    known = list(dict.fromkeys(name for row in islice(rows, _N_ROWS_FOR_NAMES) for name in _column_names(row)))
    sought = f"column {wanted!r}" if wanted is not None else f"{key} column (looked for {', '.join(usual)})"
    hint = "." if wanted is None else did_you_mean(wanted, known) or "."
    columns = ", ".join(known) or "none at all"
    return DataError(f"{origin}: has no {sought}{hint} Its columns are: {columns}. Name one with data.columns.{key}.")


def _text(value: Any, column: str, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return without_surrogates(value)
    hint = f", perhaps {', '.join(f'{column}.{name}' for name in value)}" if isinstance(value, Mapping) else ""
    raise DataError(
        f"{where}: column {column!r} holds a {type(value).__name__}, expected text. "
        f"Name another column with data.columns.prompt{hint}."
    )


def without_surrogates(text: str) -> str:
    """Replaces half characters: scraped text cut inside an emoji has them in JSON, and nothing can encode them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _toxicity(value: Any, column: str, where: str, must_be_toxicity: bool) -> float | None:
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
    raise DataError(
        f"{where}: column {column!r} holds {value!r}, expected a toxicity from 0 to 1. "
        "Name another column with data.columns.toxicity."
    )


def _id(row: Row, column: str | None, text: str, where: str) -> str:
    value = _label(row, column, where, "id")
    return fingerprint(text) if value is None else value


def _label(row: Row, column: str | None, where: str, key: str) -> str | None:
    """Returns a text or whole number as text, None where there is none."""
    value = None if column is None else _cell(row, column)
    if value is None or value == "":
        return None
    if isinstance(value, str | int):
        return without_surrogates(str(value))
    raise DataError(
        f"{where}: column {column!r} holds a {type(value).__name__}, expected text or a whole number. "
        f"Name another column with data.columns.{key}."
    )


def _check_ids(prompts: Iterable[Prompt], column: str | None, origin: str) -> None:
    """Refuses an id that stands for two texts: draws and results are keyed by id."""
    texts: dict[str, str] = {}
    for prompt in prompts:
        if texts.setdefault(prompt.id, prompt.text) != prompt.text:
            raise DataError(
                f"{origin}: id {prompt.id!r} in column {column!r} stands for more than one text. "
                "Name a column with unique values with data.columns.id (the prompt's own column will do)."
            )
