"""Every key of recipes and suites with its type, default and meaning, from the fields themselves."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic.fields import FieldInfo

from alignbench.errors import UsageError, did_you_mean
from alignbench.field_docs import field_docs, type_text
from alignbench.methods import registry
from alignbench.plugins import SCORERS
from alignbench.recipe.blocks import RecipeSettings
from alignbench.recipe.scorers import AddedReward, RewardSettings, Scored, ScorerSettings
from alignbench.recipe.suites import Suite
from alignbench.records import Settings
from datasets_prep.settings import PromptSettings

_SCORED: dict[str, type[Scored]] = {
    "reward": RewardSettings,
    "reward.also": AddedReward,
    "evaluation.scorers": ScorerSettings,
}
"""Blocks whose keys depend on the kinds of scorers that are installed."""
_BLOCK = re.compile(r"\b(?:[A-Z]\w+Settings|Method|AddedReward|ColumnMapping|Entry)\b")
"""How types call a block of keys."""


def render_keys(block: str | None = None) -> str:
    """Returns the reference as Markdown, of one block such as `evaluation` or `method.ppo`, or of all.

    Raises:
        UsageError: There is no such block.
    """
    sections = dict(_sections())
    if block is None:
        return "\n\n".join(sections.values())
    chosen = [text for name, text in sections.items() if name == block or name.startswith(f"{block}.")]
    if not chosen:
        known = [*sections, "method"]
        raise UsageError(f"keys: got {block!r}, expected one of {', '.join(sections)}{did_you_mean(block, known)}")
    return "\n\n".join(chosen)


def _sections() -> Iterator[tuple[str, str]]:
    """Yields every block with its text, the recipe's own keys first."""
    yield from _of_settings("recipe", RecipeSettings, prefix="")
    for name in registry.usable_methods():
        rows = [
            _row(f"method.{field.name}", field.type, field.default is dataclasses.MISSING, field.default, field.doc)
            for field in registry.describe(name).fields
        ]
        # Its whole documentation is what `alignbench methods` prints.
        yield f"method.{name}", _section(f"method, with `name: {name}`", registry.summary(name), rows)
    yield from _of_settings("suite", Suite, prefix="")


def _of_settings(name: str, settings: type[Settings], prefix: str) -> Iterator[tuple[str, str]]:
    """Yields a block, then the blocks within it."""
    docs, rows, inner = field_docs(settings), list[str](), dict[str, type[Settings]]()
    for key, field in settings.model_fields.items():
        path = f"{prefix}{key}"
        within = _within(path, field.annotation)
        doc = docs.get(key) or (inspect.getdoc(within) if within else "") or ""
        if within is PromptSettings and path != "data":
            doc = f"{doc} Keys as those of `data`."
        elif within:
            inner[path] = within
        rows.append(_row(path, _type(field), field.is_required(), field.get_default(call_default_factory=True), doc))
    yield name, _section(name, inspect.getdoc(settings) or "", rows)
    for path, block in inner.items():
        yield from _of_settings(path, block, f"{path}.")


def _within(path: str, hint: Any) -> type[Settings] | None:
    """Returns the settings that a key's value consists of, or may consist of; None where it has no keys of its own."""
    if path in _SCORED:
        return _SCORED[path].declaring(dict.fromkeys(SCORERS.names(), ""))
    if isinstance(hint, type) and issubclass(hint, Settings):
        return hint
    return next((one for part in typing.get_args(hint) if (one := _within("", part))), None)


def _type(field: FieldInfo) -> str:
    """The type as `type_text` has it, bounds beside what they are of."""
    alternatives = typing.get_args(field.annotation) if _is_union(field.annotation) else (field.annotation,)
    return " | ".join(
        type_text(Annotated[(one, *field.metadata)] if field.metadata and one is not type(None) else one)
        for one in alternatives
    )


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _row(path: str, kind: str, required: bool, default: object, doc: str) -> str:
    kind = _BLOCK.sub("block", kind).replace("None", "null").replace("tuple[", "list[")
    given = "" if isinstance(default, Settings) else f"; default `{json.dumps(default, default=str)}`"
    return f"- `{path}`: {kind}{'; required' if required else given}. {' '.join(doc.split())}".rstrip()


def _section(title: str, doc: str, rows: list[str]) -> str:
    return "\n".join([f"## {title}", "", *([doc, ""] if doc else []), *(rows or ["No keys."])])
