"""Turns pydantic's errors into problems that name the file, the key, what is there and what would be right."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from alignbench.errors import Problem, did_you_mean
from alignbench.identity import declared, schemas_of
from alignbench.recipe.layers import Layer
from alignbench.recipe.scorers import Scored

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

KeyPath = tuple[str | int, ...]

_UNKNOWN_KEY = {"extra_forbidden", "unexpected_keyword_argument"}
_EXPECTED = {
    "bool_type": "true or false",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "a mapping",
    "string_pattern_mismatch": "a plain word of a-z, 0-9, '_', '-' and '.', such as ppo_detox: it names a directory",
    "string_too_short": "text that is not empty",
    "string_type": "text (in quotes, if it looks like a number)",
    "too_long": "at most {max_length} values",
    "too_short": "at least {min_length} values",
    "tuple_type": "a list",
}


def schema_problems(
    error: ValidationError, data: Mapping[str, Any], schema: type[BaseModel], layers: Sequence[Layer]
) -> list[Problem]:
    """Returns one problem per key that pydantic refused.

    Args:
        error: What validation raised.
        data: The merged settings that were validated.
        schema: The model they were validated against.
        layers: Where the settings came from, lowest first; the recipe's own file first of all.
    """
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for path, details in _without_other_branches(error, data):
        found.setdefault(path, []).append(details)
    return [_problem(path, errors, data, schema, layers) for path, errors in found.items()]


def where(path: KeyPath, layers: Sequence[Layer]) -> str:
    """Returns `FILE: a.b` with the topmost place that sets the key, or the recipe's own file where none does."""
    label = next((layer.label for layer in reversed(layers) if is_set(path, layer.values)), layers[0].label)
    return f"{label}: {'.'.join(map(str, path))}"


def shown(value: object) -> str:
    """Writes a value as a recipe would, shortened, and without names and passwords in addresses."""
    text = re.sub(r"://[^/\s\"]*@", "://***@", json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 60 else text[:57] + "..."


def _without_other_branches(error: ValidationError, data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, ErrorDetails]]:
    """Yields key paths and errors; where a key takes one of several types, only those of the type that came closest.

    The closest is the one whose keys were read, and above all one that was read whole and then broke a rule.
    """
    located = [(*_locate(details, data), details) for details in error.errors(include_url=False)]
    entered = {base for path, base, _ in located if base is not None and len(path) > len(base)}
    ruled = {base for path, base, details in located if path == base and details["type"] == "value_error"}
    for path, base, details in located:
        if base in ruled and details["type"] != "value_error":
            continue
        if base is None or len(path) > len(base) or base not in entered:
            yield path, details


def _locate(details: ErrorDetails, data: Any) -> tuple[KeyPath, KeyPath | None]:
    """Returns the path of keys that an error is about, and the path of the innermost key of several types on the way.

    Pydantic mixes names of types into the location; whatever is no key of the data is one of those.
    """
    path: KeyPath = ()
    base: KeyPath | None = None
    for position, part in enumerate(details["loc"], start=1):
        if (isinstance(data, dict) and part in data) or (isinstance(data, list) and part in range(len(data))):
            path, data = (*path, part), _value_at((part,), data)
        elif details["type"] == "missing" and position == len(details["loc"]) and isinstance(data, dict):
            path = (*path, part)
        else:
            base = path
    return path, base


def _problem(
    path: KeyPath,
    errors: Sequence[ErrorDetails],
    data: Mapping[str, Any],
    schema: type[BaseModel],
    layers: Sequence[Layer],
) -> Problem:
    kinds = {details["type"] for details in errors}
    if kinds & _UNKNOWN_KEY:
        known = sorted(_known_keys(schema, data, path[:-1]))
        expected = f"one of {', '.join(known)}" if known else f"no settings for the method {schema.__name__}"
        return Problem(where(path, layers), "an unknown key", expected + did_you_mean(str(path[-1]), known))
    if kinds == {"value_error"}:
        return _broken_rule(path, errors[0], data, layers)
    value = _value_at(path, data)
    expected = " or ".join(dict.fromkeys(_expected(details, value) for details in errors))
    choices = [choice for details in errors for choice in _choices(details)]
    got = "nothing" if kinds == {"missing"} and not isinstance(value, list) else shown(value)
    return Problem(where(path, layers), got, expected + did_you_mean(str(value), choices))


def _broken_rule(path: KeyPath, details: ErrorDetails, data: Mapping[str, Any], layers: Sequence[Layer]) -> Problem:
    """Reads what a validator raised: `what is expected`, or `key: what is expected` from a check of a whole block."""
    rule = str(details["ctx"]["error"])
    key, colon, rest = rule.partition(": ")
    if colon and key.isidentifier():
        path, rule = (*path, key), rest
    stated, is_stated, expected = rule.removeprefix("got ").partition(", expected ")
    if is_stated and rule.startswith("got "):  # a method's own check, which says both
        return Problem(where(path, layers), stated, expected)
    value = _value_at(path, data)
    if isinstance(value, dict):
        return Problem(
            where(path, layers), f"values that do not fit together ({rule})", "another value for one of them"
        )
    return Problem(where(path, layers), "nothing" if value is None else shown(value), rule)


def _expected(details: ErrorDetails, value: object) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "missing":
        return "a longer list" if isinstance(value, list) else "a value: this key has no default"
    if kind == "value_error":
        return str(context["error"])
    return _EXPECTED[kind].format(**context) if kind in _EXPECTED else details["msg"]


def _choices(details: ErrorDetails) -> list[str]:
    """Returns the words that a literal allows."""
    return re.findall(r"'([^']*)'", details["ctx"]["expected"]) if details["type"] == "literal_error" else []


def _known_keys(schema: type[Any], data: Any, path: KeyPath) -> set[str]:
    """Follows a path through the types of settings; returns the keys that the mapping there may have."""
    schemas = [schema]
    for part in path:
        if isinstance(part, str):
            hints = [field.hint for one in schemas for field in declared(one, data) if field.name == part]
            schemas = [found for hint in hints for found in schemas_of(hint)]
        data = _value_at((part,), data)
    known = {field.name for one in schemas for field in declared(one, data)}
    return known.union(*(one.further_kinds() for one in schemas if issubclass(one, Scored)))


def is_set(path: KeyPath, values: object) -> bool:
    """Tells whether nested mappings hold a key."""
    for part in path:
        if isinstance(values, list):
            return True
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[str(part)]
    return True


def _value_at(path: KeyPath, data: Any) -> Any:
    for part in path:
        if isinstance(data, dict) and part not in data:
            return None
        data = data[part]
    return data
