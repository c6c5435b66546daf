from __future__ import annotations

import dataclasses
import importlib
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field

from alignbench.errors import UsageError
from alignbench.methods import registry
from alignbench.methods.base import Facts, Method
from alignbench.plugins import METHODS


@dataclasses.dataclass(frozen=True)
class _Parent:
    strength: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Strength of the parent.

    More about it."""
    plain: int | None = None


@dataclasses.dataclass(frozen=True)
class Double(_Parent):
    """A method from elsewhere."""

    facts: ClassVar[Facts] = Facts(architectures=frozenset({"causal"}))
    """Not a hyperparameter."""
    mode: Literal["a", "b"] = "a"
    """How."""
    lengths: tuple[int, int] = (1, 2)
    names: Annotated[tuple[str, ...], Field(strict=False)] = dataclasses.field(default_factory=lambda: ("x",))
    """Names."""
    required: Annotated[int, Field(ge=1)] | None = dataclasses.field(kw_only=True)

    def train(self, data: object, run: object) -> object:
        """Trains."""


not_a_dataclass = object()
WITHOUT_A_DEFAULT = {
    "external": {"model": "some/model"},
    "stored_completions": {"file": "completions.jsonl"},
    "word_filter": {"words": ("word",)},
}
"""Settings that nobody can choose for a user."""


@pytest.fixture
def double(monkeypatch):
    """Makes this file importable under a name, as an installed package would be."""
    module = importlib.import_module(__name__)
    monkeypatch.setitem(importlib.import_module("sys").modules, "elsewhere", module)


@pytest.mark.parametrize("name", METHODS.built_in)
def test_built_in_methods_are_found_and_keep_the_interface(name):
    assert name in registry.known_methods()
    method = registry.method_class(name)
    assert dataclasses.is_dataclass(method)
    assert method.__dataclass_params__.frozen
    assert method.__module__ == f"alignbench.methods.{name}"
    assert isinstance(method(**WITHOUT_A_DEFAULT.get(name, {})), Method)


@pytest.mark.parametrize("name", METHODS.built_in)
def test_every_built_in_hyperparameter_is_documented(name):
    description = registry.describe(name)
    assert description.doc
    for field in description.fields:
        assert field.doc, f"{name}.{field.name} has no docstring"
    required = {field.name for field in description.fields if field.default is dataclasses.MISSING}
    assert required == WITHOUT_A_DEFAULT.get(name, {}).keys()


def test_unknown_method_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown method 'pppo', did you mean 'ppo'\? \(known: best_of_n, .*, ppo"):
        registry.method_class("pppo")


def test_third_party_method_is_listed_without_import_and_loaded_on_demand(installed, double):
    installed(("my_method", "elsewhere:Double"), ("broken", "no_such_module_anywhere:X"))
    assert registry.known_methods() == sorted([*METHODS.built_in, "broken", "my_method"])
    assert registry.method_class("my_method") is Double


def test_third_party_method_that_cannot_be_imported(installed):
    installed(("broken", "no_such_module_anywhere:X"))
    with pytest.raises(UsageError, match=r"'broken'.*no_such_module_anywhere"):
        registry.method_class("broken")


def test_third_party_method_that_is_no_dataclass(installed, double):
    installed(("odd", "elsewhere:not_a_dataclass"))
    with pytest.raises(UsageError, match=r"'odd' is <object.*frozen dataclass"):
        registry.method_class("odd")


def test_third_party_method_that_lacks_a_part_of_the_interface(installed, double):
    installed(("odd", "elsewhere:_Parent"))
    expected = (
        r"method 'odd' \(.*:_Parent, of the entry point 'elsewhere:_Parent'\) is no method: it lacks "
        r"train\(self, data, run\); it has no facts, expected `facts: ClassVar\[Facts\]`"
    )
    with pytest.raises(UsageError, match=expected):
        registry.method_class("odd")


@dataclasses.dataclass
class Thawed:
    """Nothing is as it should be."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"casual"}), learns_from=frozenset({"pairs"}), gives="policy"
    )

    def train(self, data: object) -> object:
        """Trains."""


def test_third_party_method_is_told_all_that_is_wrong(installed, double):
    installed(("odd", "elsewhere:Thawed"))
    with pytest.raises(UsageError) as caught:
        registry.method_class("odd")
    for problem in (
        "its dataclass is not frozen",
        "it has train(self, data: 'object') -> 'object', expected train(self, data, run)",
        "facts.architectures: got 'casual', expected of causal, seq2seq, classifier",
        "facts.learns_from: got 'pairs', expected of prompts, preference_pairs, demonstrations, labelled_completions, "
        "ranked_completions",
        "facts.load_policy: got nothing beside gives 'policy'",
    ):
        assert problem in str(caught.value)


def test_third_party_method_with_a_type_that_cannot_be_read(installed, double, monkeypatch):
    monkeypatch.setitem(Double.__annotations__, "mode", "Nowhere")
    installed(("odd", "elsewhere:Double"))
    with pytest.raises(UsageError, match=r"type of a field cannot be read: name 'Nowhere' is not defined; import it"):
        registry.method_class("odd")
    assert "odd" not in registry.usable_methods()


def test_third_party_method_cannot_take_a_built_in_name(installed):
    installed(("ppo", "elsewhere:Double"))
    with pytest.raises(UsageError, match=r"'elsewhere:Double'.*'ppo'.*alignbench itself.*rename"):
        registry.known_methods()


def test_two_packages_cannot_share_a_name(installed):
    installed(("twin", "one:A"), ("twin", "two:B"))
    with pytest.raises(UsageError, match=r"'two:B'.*'twin'.*'one:A'"):
        registry.known_methods()


def test_describe_reads_types_bounds_defaults_and_docstrings(installed, double):
    installed(("my_method", "elsewhere:Double"))
    described = {field.name: field for field in registry.describe("my_method").fields}
    assert list(described) == ["strength", "plain", "mode", "lengths", "names", "required"]
    assert [(described[name].type, described[name].default, described[name].doc) for name in described] == [
        ("float > 0, <= 1", 0.5, "Strength of the parent.\n\nMore about it."),
        ("int | None", None, ""),
        ("'a' | 'b'", "a", "How."),
        ("tuple[int, int]", (1, 2), ""),
        ("tuple[str, ...]", ("x",), "Names."),
        ("int >= 1 | None", dataclasses.MISSING, ""),
    ]
