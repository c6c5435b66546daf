"""YAML as recipes allow it: plain values, no key twice, every problem with its line."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode

from alignbench.errors import Problem, RecipeError

_MAX_DEPTH = 32
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_STRING_TAG = "tag:yaml.org,2002:str"


@lru_cache(maxsize=64)
def read_yaml(text: str, label: str) -> Any:
    """Reads one YAML 1.2 document of plain mappings, lists and scalars. The result is shared: do not change it.

    Refused, because a recipe means the same to every reader: tags, anchors, merge keys, duplicate keys, keys that are
    not words, numbers with a leading zero, other YAML versions. Dates stay the text that they are in YAML 1.2.

    Raises:
        RecipeError: with the first syntax problem alone.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer, yaml.Constructor = _Composer, _Constructor
    if re.search(r"^%", text, re.MULTILINE):
        raise refusal(label, "a line that begins with %", "YAML 1.2 without directives")
    try:
        return yaml.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{label}, line {mark.line + 1}, column {mark.column + 1}" if mark else label
        found = getattr(error, "problem", None) or str(error).splitlines()[0]
        if isinstance(error, _RefusedError):
            raise refusal(place, found, error.expected) from error
        expected = "each key once" if isinstance(error, DuplicateKeyError) else "YAML 1.2"
        raise refusal(place, f"a syntax error ({found})", expected) from error


def parse_set(assignment: str) -> dict[str, Any]:
    """Turns `policy.model=PATH` into `{"policy": {"model": "PATH"}}`; the value is read as YAML.

    Raises:
        RecipeError: if it is no assignment, or the value is no YAML.
    """
    key, equals, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise refusal("--set", repr(assignment), "key=value, such as policy.model=PATH")
    if not text.strip():
        raise refusal(
            f"--set {key.strip()}", "no value", f"{key.strip()}=null to unset it, {key.strip()}=\"''\" for empty text"
        )
    value = read_yaml(text, f"--set {key.strip()}")
    for part in reversed(parts):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Writes a JSON-like mapping as YAML that `read_yaml` reads back to equal values."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.allow_unicode = True
    yaml.width = 120
    yaml.representer.ignore_aliases = lambda *_: True
    stream = io.StringIO()
    yaml.dump(dict(values), stream)
    return stream.getvalue()


class _RefusedError(MarkedYAMLError):  # type: ignore[misc]
    """YAML that a recipe must not use."""

    def __init__(self, found: str, expected: str, mark: Any) -> None:
        super().__init__(problem=found, problem_mark=mark)
        self.expected = expected


class _Composer(Composer):  # type: ignore[misc]
    """Refuses tags, anchors and bottomless nesting before anything is built."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        found = None
        if getattr(event, "anchor", None):  # also that of an alias
            found = ("an anchor or alias (& or *)", "plain values, in quotes where they begin with & or *")
        elif getattr(event, "tag", None):
            found = (f"the tag {event.tag}", "plain values, in quotes where they begin with !")
        elif self.depth > _MAX_DEPTH:
            found = (f"values nested more than {_MAX_DEPTH} deep", "a recipe")
        elif _SURROGATE.search(getattr(event, "value", "")):
            found = ("half a character (a \\u escape from d800 to dfff)", "the character itself")
        if found:
            raise _RefusedError(*found, event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Constructor(SafeConstructor):  # type: ignore[misc]
    """Reads scalars as YAML 1.2 means them, and refuses what different readers read differently."""

    def construct_yaml_int(self, node: ScalarNode) -> Any:
        if _LEADING_ZERO.match(node.value):
            expected = "no leading zero, or quotes where it is text"
            raise _RefusedError(f"the number {node.value}", expected, node.start_mark)
        try:
            return super().construct_yaml_int(node)
        except ValueError as error:  # more digits than Python converts
            raise _RefusedError("a number that is too long", "fewer digits", node.start_mark) from error

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> Any:
        for key, _ in node.value:
            if not isinstance(key, ScalarNode) or key.tag != _STRING_TAG:
                shown = key.value if isinstance(key, ScalarNode) else "a list or mapping"
                raise _RefusedError(f"{shown} as a key", "a word as the key", key.start_mark)
        return super().construct_mapping(node, deep=deep)


_Constructor.add_constructor("tag:yaml.org,2002:int", _Constructor.construct_yaml_int)
_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def refusal(where: str, got: str, expected: str) -> RecipeError:
    """Returns the error of one problem."""
    return RecipeError([Problem(where, got, expected)])
