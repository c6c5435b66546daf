"""Finds methods by name: the built-in ones, and those that installed packages add under `alignbench.methods`.

A package adds a method with an entry point whose name is the method's name in a recipe:

    [options.entry_points]
    alignbench.methods =
        my_method = my_package.my_method:MyMethod
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import textwrap
import types
import typing
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

from alignbench.errors import UsageError, did_you_mean

ENTRY_POINT_GROUP = "alignbench.methods"

_INTERFACE = ("needs", "needs_reward", "architectures", "produces", "train")

_BUILT_IN = {
    "dpo": "alignbench.methods.dpo:DPO",
    "ppo": "alignbench.methods.ppo:PPO",
    "reward_model": "alignbench.methods.reward_model:RewardModel",
    "untrained": "alignbench.methods.untrained:Untrained",
}


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
    return sorted({*_BUILT_IN, *_third_party()})


def method_class(name: str) -> type[Any]:
    """Returns the dataclass of a method.

    Raises:
        UsageError: if there is no such method, or what a package offers under the name is none.
    """
    if name not in known_methods():
        raise UsageError(
            f"unknown method {name!r}{did_you_mean(name, known_methods())} (known: {', '.join(known_methods())})"
        )
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        found = getattr(import_module(module), attribute)
    else:
        found = _load(_third_party()[name])
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise UsageError(f"method {name!r} is {found!r}; a method is a frozen dataclass with a train function")
    missing = [part for part in _INTERFACE if not hasattr(found, part)]
    if missing:
        raise UsageError(
            f"method {name!r} ({found.__module__}) lacks {', '.join(missing)}: see alignbench/methods/base.py"
        )
    return found


def describe(name: str) -> MethodDescription:
    """Returns a method's documentation: paper and formula, and every hyperparameter with its default.

    Raises:
        UsageError: if there is no such method.
    """
    method = method_class(name)
    docs = _field_docs(method)
    hints = typing.get_type_hints(method, include_extras=True)
    fields = tuple(
        FieldDescription(field.name, _type_text(hints[field.name]), _default(field), docs.get(field.name, ""))
        for field in dataclasses.fields(method)
        if field.init
    )
    return MethodDescription(name, inspect.getdoc(sys.modules[method.__module__]) or "", fields)


@cache
def _third_party() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        taken = "alignbench itself" if entry.name in _BUILT_IN else _origin(found.get(entry.name))
        if taken:
            raise UsageError(
                f"{_origin(entry)} offers a method called {entry.name!r}, a name that {taken} already uses; "
                "rename its entry point or uninstall the package"
            )
        found[entry.name] = entry
    return found


def _origin(entry: EntryPoint | None) -> str:
    if entry is None:
        return ""
    return f"the package {entry.dist.name!r}" if entry.dist else f"the entry point {entry.value!r}"


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"method {entry.name!r} of {_origin(entry)} cannot be imported from {entry.value}: {error}"
        ) from error


def _default(field: dataclasses.Field[Any]) -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _field_docs(method: type[Any]) -> dict[str, str]:
    """Reads the string literal under each field; a subclass overrides what it inherits."""
    docs: dict[str, str] = {}
    for parent in reversed(method.__mro__):
        if not dataclasses.is_dataclass(parent):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(parent))).body[0]
        except (OSError, TypeError):  # a class without source, such as one made in a session
            continue
        assert isinstance(body, ast.ClassDef)
        for field, literal in zip(body.body, body.body[1:], strict=False):
            match field, literal:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as doc)):
                    docs[name] = inspect.cleandoc(doc)
    return docs


_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def _type_text(hint: Any) -> str:
    """Writes a type as a reader would: `Annotated[float, Field(gt=0)] | None` becomes `float > 0 | None`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        metadata = [item for part in arguments[1:] for item in getattr(part, "metadata", None) or [part]]
        bounds = [
            f" {sign} {getattr(item, key):g}"
            for item in metadata
            for key, sign in _BOUNDS.items()
            if hasattr(item, key)
        ]
        return _type_text(arguments[0]) + ",".join(bounds)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_text(argument) for argument in arguments)
    if origin is typing.Literal:
        return " | ".join(repr(argument) for argument in arguments)
    if origin is not None:
        inner = ["..." if argument is ... else _type_text(argument) for argument in arguments]
        return f"{origin.__name__}[{', '.join(inner)}]"
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) else str(hint)
