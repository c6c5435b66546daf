"""Fields as people read them: the words under each in the source, and its type."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
import typing
from typing import Annotated, Any


def field_docs(owner: type[Any]) -> dict[str, str]:
    """Reads the string literal under each field; a subclass overrides what it inherits."""
    docs: dict[str, str] = {}
    for parent in reversed(owner.__mro__):
        if not inspect.get_annotations(parent):
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


def type_text(hint: Any) -> str:
    """Writes a type as a reader would: `Annotated[float, Field(gt=0)] | None` becomes `float > 0 | None`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        metadata = [item for part in arguments[1:] for item in getattr(part, "metadata", None) or [part]]
        bounds = [
            f" {sign} {getattr(item, key):.10g}"
            for item in metadata
            for key, sign in _BOUNDS.items()
            if hasattr(item, key)
        ]
        return type_text(arguments[0]) + ",".join(bounds)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_text(argument) for argument in arguments)
    if origin is typing.Literal:
        return " | ".join(repr(argument) for argument in arguments)
    if origin is not None:
        inner = ["..." if argument is ... else type_text(argument) for argument in arguments]
        return f"{origin.__name__}[{', '.join(inner)}]"
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) else str(hint)
