"""Cells that hold a structure as text, as pandas and `to_csv` write nested columns: `{'text': 'An hour', ...}`.

Such a column is unpacked, so that its parts are found as in rows that are nested by themselves, or it is refused; it is
never a prompt as it is. A cell is taken for a structure if it can be read as one, JSON or Python, and has a part of
a known name; a column, if half of its cells are. A column of lists of mappings, or of mappings as only Python writes
them, is refused whatever its parts are called. A prompt that only begins with a brace (code, a template), a JSON
object without such a part, and lists of anything but messages in a few rows are left alone.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Sequence
from typing import Any

from datasets_prep.rows import Row, faults_error, like, place, shown
from datasets_prep.settings import ColumnMapping

KNOWN_PARTS = frozenset({"text", "prompt", "content", "messages"})
"""Names under which a structure in a prompt's column holds its text."""
TEXT_COLUMNS = ("prompt", "text", "messages")
_NAMES = {"nan": float("nan"), "NaN": float("nan"), "inf": float("inf"), "Infinity": float("inf"), "NA": None} | {
    "null": None,
    "true": True,
    "false": False,
}
_WRAPPERS = re.compile(r"array|OrderedDict|(float|int|uint|str|bool)_?\d*|Timestamp")
_BEGINNING = re.compile(
    r"""[\s\ufeff"']*\[?\s*(\{\s*\\*["']{0,2}|\w+\()(text|prompt|content|role|toxicity)(\\*["']{1,2}\s*:|:\s|=)"""
)
"""How a known structure begins, also one that was cut off or that no reader knows."""
_MAYBE = re.compile(r"""[\s\ufeff]*(["']?\s*[\[{]|b["']|\w+\()""")


def unpacked(rows: Sequence[Row], mapping: ColumnMapping, origin: str) -> tuple[Sequence[Row], int]:
    """Returns the rows with structures in the place of their texts, and the number of cells that were such texts.

    Args:
        rows: The raw rows.
        mapping: Names given by the user; `scores.harm` has the column `scores` read, whatever its parts are called.
        origin: The key and the source, for messages.

    Raises:
        DataError: A column holds structures of which some cannot be read, or of a kind that is no prompt.
    """
    n_unpacked = 0
    for column, parts in _columns(rows, mapping).items():
        rows, n = _unpack_column(rows, column, parts, origin, is_named=column == mapping.prompt)
        n_unpacked += n
    return rows, n_unpacked


def _columns(rows: Sequence[Row], mapping: ColumnMapping) -> dict[str, frozenset[str]]:
    """Returns the columns to look into, and the names of parts that the user has named in them."""
    columns: dict[str, frozenset[str]] = {}
    if mapping.prompt is None and not any("prompt.text" in row for row in rows):
        first = next((name for name in TEXT_COLUMNS if any(name in row for row in rows)), None)
        columns = {} if first is None else {first: frozenset()}
    elif mapping.prompt is not None:
        columns[mapping.prompt] = frozenset()
    for path in (mapping.prompt, mapping.toxicity, mapping.id, mapping.group):
        column, dot, rest = (path or "").partition(".")
        if dot and not any(path in row for row in rows):
            columns[column] = columns.get(column, frozenset()) | {rest.partition(".")[0]}
    return columns


def _unpack_column(
    rows: Sequence[Row], column: str, parts: frozenset[str], origin: str, *, is_named: bool
) -> tuple[Sequence[Row], int]:
    texts = {i: row[column] for i, row in enumerate(rows) if isinstance(row.get(column), str) and row[column].strip()}
    maybe = {i: parsed(text) for i, text in texts.items() if _MAYBE.match(text)}
    known = {i for i, value in maybe.items() if _is_known(value, KNOWN_PARTS | parts) or _BEGINNING.match(texts[i])}
    if known and 2 * len(known) >= len(texts):
        bad = [i for i in texts if not isinstance(maybe.get(i), dict | list)]
        if bad:
            faults = [f"{place(rows, i)}: column {column!r} holds {shown(texts[i])}" for i in bad]
            raise faults_error(
                origin, faults, "The other cells of this column hold structures as text (JSON or Python), and this is "
                "none that can be read. Write the file anew from its source, with the text in a column of its own.",
            )  # fmt: skip
        return like(rows, ({**row, column: maybe.get(i, row.get(column))} for i, row in enumerate(rows))), len(texts)
    strange = {i for i, value in maybe.items() if isinstance(value, dict) and {"text", "toxicity"} <= value.keys()}
    lists = {i for i, value in maybe.items() if isinstance(value, list | bytes)}
    if not is_named and 2 * len(lists) >= len(texts):
        strange |= lists
    written = {i for i, value in maybe.items() if _is_written_by_python(value, texts[i])}
    if 2 * len(written) >= len(texts):
        strange |= written
    if strange:
        faults = [f"{place(rows, i)}: column {column!r} holds {shown(texts[i])}" for i in sorted(strange)]
        raise faults_error(
            origin, faults, "This is a structure as text, and no prompt. Write the text into a column of its own, or "
            "name another column with data.columns.prompt.",
        )  # fmt: skip
    return rows, 0


def _is_known(value: object, parts: frozenset[str]) -> bool:
    """True for a mapping with a part of a known name, and for a list of messages."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, dict) and {"role", "content"} <= one.keys() for one in value)
    return isinstance(value, dict) and not parts.isdisjoint(value)


def _is_written_by_python(value: object, text: str) -> bool:
    """True for a list of mappings, and a mapping that is no JSON, whatever their parts: nobody writes prompts so."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, dict) for one in value)
    return isinstance(value, dict) and not re.match(r'[\s\ufeff]*\{\s*"', text)


def parsed(text: str) -> dict[Any, Any] | list[Any] | bytes | None:
    """Returns what a text is the writing of: a mapping, a list or bytes, in JSON (also twice) or Python; else None."""
    value: object = text
    for _ in range(3):
        if not isinstance(value, str):
            break
        value = _read(value.strip().strip("\ufeff").strip())
    return value if isinstance(value, dict | list | bytes) else None


def _read(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return _plain(ast.parse(text, mode="eval").body)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _plain(node: ast.expr) -> object:
    """Returns the value of a literal, with the names and wrappers that pandas and numpy write; else ValueError."""
    match node:
        case ast.Constant(value=str() | bytes() | int() | float() | None as value):
            return value
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_plain(key): _plain(value) for key, value in zip(keys, values, strict=True) if key is not None}
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_plain(item) for item in items]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return float("-inf")
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[content]) if _WRAPPERS.fullmatch(name):
            return _plain(content)
    raise ValueError("no literal")
