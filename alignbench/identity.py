"""What a run is: which settings belong to its identity is said where each of them is declared.

A field annotated with `NotIdentity` decides no number: two runs that differ in it alone are one run. Every other field
belongs to the identity, and so does a key that no declaration knows. Run hashes, the check of a checkpoint, `compare`
and docs/identity.md all read these declarations.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter

from alignbench.errors import TrainingError


@dataclass(frozen=True, slots=True)
class NotIdentity:
    """Marks a setting that decides no number of a run."""

    effect: str
    """What it changes instead."""


@dataclass(frozen=True, slots=True)
class OnlyIfGiven:
    """Marks a setting whose null is as if there were none: it is in no resolved recipe, and in no identity."""


@dataclass(frozen=True, slots=True)
class OnlyIfChanged:
    """Marks a setting that came later and does nothing new at its default: then it is in no identity."""


@dataclass(frozen=True, slots=True)
class PartOfIdentity:
    """Marks a text of which only a part belongs to the identity."""

    part: Callable[[str], str]
    """Returns that part."""
    effect: str
    """What is taken for the rest."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    hint: Any
    """Its type, without annotations."""
    marks: tuple[object, ...]
    default: Any
    """`dataclasses.MISSING` where it must be given."""


def identity_values(schema: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that belong to the identity, those of nested blocks too.

    Args:
        schema: The pydantic model or dataclass that declares them.
        values: JSON-like, as in a resolved recipe. What a field added since then would have had, its default, is
            filled in; a key that the schema does not know is kept.
    """
    counted = dict(values)
    for field in declared(schema, values):
        if any(isinstance(mark, NotIdentity) for mark in field.marks):
            counted.pop(field.name, None)
            continue
        if any(isinstance(mark, OnlyIfGiven) for mark in field.marks) and counted.get(field.name) is None:
            counted.pop(field.name, None)
            continue
        if field.name not in counted:
            if field.default is dataclasses.MISSING:
                continue
            counted[field.name] = _json(field)
        value = _within(field.hint, counted[field.name])
        if any(isinstance(mark, OnlyIfChanged) for mark in field.marks) and value == _json(field):
            counted.pop(field.name)
            continue
        for mark in field.marks:
            if isinstance(mark, PartOfIdentity) and isinstance(value, str):
                value = mark.part(value)
        counted[field.name] = value
    return counted


def _json(field: _Field) -> Any:
    """The default of a field, as a resolved recipe has it."""
    return TypeAdapter(field.hint).dump_python(field.default, mode="json")


def only_if_given(schema: type[Any]) -> set[str]:
    """Returns the keys at the top whose null is as if there were none."""
    fields = _fields(schema)  # type: ignore[arg-type]  # a class is hashable
    return {field.name for field in fields if any(isinstance(mark, OnlyIfGiven) for mark in field.marks)}


def not_identity(schema: type[Any], prefix: str = "") -> dict[str, str]:
    """Returns the keys that do not belong to the identity (or only in part), dotted, and what each changes instead."""
    found: dict[str, str] = {}
    for field in declared(schema, {}):
        effects = [mark.effect for mark in field.marks if isinstance(mark, NotIdentity | PartOfIdentity)]
        found |= {f"{prefix}{field.name}": effect for effect in effects}
        if not effects:
            for nested in schemas_of(field.hint):
                found |= not_identity(nested, f"{prefix}{field.name}.")
    return found


def require_same(what: str, saved: Mapping[str, Any], here: Mapping[str, Any], ignored: frozenset[str]) -> None:
    """TrainingError, naming each key that differs, where a checkpoint is not of this run.

    Args:
        what: The checkpoint, for the message.
        saved: The identity that it was written with.
        here: That of this run.
        ignored: Keys that an earlier release took for a part of it.
    """
    here = json.loads(json.dumps(dict(here)))
    differing = [
        f"{key} {saved.get(key)} (this run: {here.get(key)})"
        for key in sorted({*saved, *here} - ignored)
        if saved.get(key) != here.get(key)
    ]
    if differing:
        raise TrainingError(f"{what}: the checkpoint is of {', '.join(differing)}; use --force to start anew")


def declared(schema: type[Any], values: object) -> tuple[_Field, ...]:
    """Returns the settings of a block. Of one that plug-ins add settings to (`declaring`), its values say which do."""
    declaring = getattr(schema, "declaring", None)
    chosen = declaring(values if isinstance(values, Mapping) else {}) if declaring else schema
    return _fields(chosen)  # type: ignore[arg-type]  # a class is hashable


@cache
def _fields(schema: type[Any]) -> tuple[_Field, ...]:
    hints = get_type_hints(schema, include_extras=True)
    if issubclass(schema, BaseModel):
        defaults = {
            name: dataclasses.MISSING if info.is_required() else info.get_default(call_default_factory=True)
            for name, info in schema.model_fields.items()
        }
    else:
        defaults = {field.name: default_of(field) for field in dataclasses.fields(schema) if field.init}
    return tuple(_Field(name, *_split(hints[name]), default) for name, default in defaults.items())


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Returns the default of a dataclass's field; `dataclasses.MISSING` where there is none."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _split(hint: Any) -> tuple[Any, tuple[object, ...]]:
    """A type and what it is annotated with, at the top."""
    if get_origin(hint) is not Annotated:
        return hint, ()
    inner, *marks = get_args(hint)
    return inner, tuple(marks)


def _within(hint: Any, value: Any) -> Any:
    """The value without what does not belong to the identity of the blocks that it holds."""
    if isinstance(value, list | tuple):
        return [_within(hint, item) for item in value]
    if isinstance(value, Mapping):
        for schema in schemas_of(hint):
            return identity_values(schema, value)
    return value


def schemas_of(hint: Any) -> Iterator[type[Any]]:
    """The models and dataclasses that a type speaks of."""
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or issubclass(hint, BaseModel)):
        yield hint
    for argument in get_args(hint):
        yield from schemas_of(argument)
