"""What a method is, by its name: its class, and its documentation as `alignbench methods NAME` prints it."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alignbench.errors import UsageError
from alignbench.field_docs import field_docs, type_text
from alignbench.identity import default_of
from alignbench.methods.base import Architecture, DataKind, Facts, Gives, Method
from alignbench.plugins import METHODS


@dataclass(frozen=True, slots=True)
class FieldDescription:
    """One hyperparameter of a method."""

    name: str
    type: str
    """As it reads in source, e.g. `float` or `int | None`, with its bounds: `float > 0`."""
    default: object
    """The default value, or `dataclasses.MISSING` where a recipe must give one."""
    doc: str
    """The string literal under the field; empty where there is none."""


@dataclass(frozen=True, slots=True)
class MethodDescription:
    """What `alignbench methods NAME` prints."""

    name: str
    doc: str
    """Docstring of the method's module: paper, objective, differences from the paper."""
    fields: tuple[FieldDescription, ...]


def known_methods() -> list[str]:
    """Returns the names of all methods, sorted, without importing any.

    Raises:
        UsageError: if an installed package claims a name that is taken.
    """
    return METHODS.names()


def method_class(name: str) -> type[Method]:
    """Returns the dataclass of a method.

    Raises:
        UsageError: if there is no such method, or what a package offers under the name is none.
    """
    found = METHODS.load(name)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise UsageError(f"method {name!r} is {found!r}; a method is a frozen dataclass with a train function")
    if problems := list(_problems(found)):
        raise UsageError(
            f"method {name!r} ({found.__module__}:{found.__name__}, of {METHODS.owner(name)}) is no method: "
            f"{'; '.join(problems)} (alignbench.methods.base says what a method is)"
        )
    return typing.cast("type[Method]", found)


def usable_methods() -> list[str]:
    """Returns the names of the methods whose declarations can be read, sorted: a broken package offers none."""
    return list(filter(is_usable, known_methods()))


def is_usable(name: object) -> bool:
    """Returns whether this is the name of a method whose declarations can be read; no other one is loaded."""
    if not isinstance(name, str) or name not in known_methods():
        return False
    try:
        method_class(name)
    except UsageError:
        return False
    return True


def _problems(found: type[Any]) -> Iterator[str]:
    """Yields what keeps a dataclass from being a method."""
    if not found.__dataclass_params__.frozen:
        yield "its dataclass is not frozen, and settings that change are no identity of a run"
    if not callable(getattr(found, "train", None)):
        yield "it lacks train(self, data, run)"
    elif len(inspect.signature(found.train).parameters) != 3:
        yield f"it has train{inspect.signature(found.train)}, expected train(self, data, run)"
    try:
        typing.get_type_hints(found, include_extras=True)
    except NameError as error:
        yield f"the type of a field cannot be read: {error}; import it outside `if TYPE_CHECKING`"
    facts = getattr(found, "facts", None)
    if not isinstance(facts, Facts):
        yield f"it has {'no facts' if facts is None else f'the facts {facts!r}'}, expected `facts: ClassVar[Facts]`"
        return
    for key, got, known in (
        ("architectures", facts.architectures, typing.get_args(Architecture)),
        ("learns_from", facts.learns_from, typing.get_args(DataKind)),
        ("gives", {facts.gives}, typing.get_args(Gives)),
    ):
        if unknown := sorted(set(got) - set(known)):
            yield f"facts.{key}: got {', '.join(map(repr, unknown))}, expected of {', '.join(known)}"
    if (facts.load_policy is not None) != (facts.gives == "policy"):
        given = "nothing" if facts.load_policy is None else "a function"
        yield f"facts.load_policy: got {given} beside gives {facts.gives!r}; it is for methods that give a `policy`"


def describe(name: str) -> MethodDescription:
    """Returns a method's documentation: paper and formula, and every hyperparameter with its default.

    Raises:
        UsageError: if there is no such method.
    """
    method = method_class(name)
    docs = field_docs(method)
    hints = typing.get_type_hints(method, include_extras=True)
    fields = tuple(
        FieldDescription(field.name, type_text(hints[field.name]), default_of(field), docs.get(field.name, ""))
        for field in dataclasses.fields(method)
        if field.init
    )
    return MethodDescription(name, inspect.getdoc(sys.modules[method.__module__]) or "", fields)


def summary(name: str) -> str:
    """Returns a method in one line: the first of its documentation, or why it cannot be used."""
    try:
        lines = describe(name).doc.splitlines()
    except UsageError as error:
        return f"(cannot be used) {error}"
    return lines[0] if lines else ""
