"""Which code a kept result came from: a hash of modules and of all that they import inside the project.

Imports are read from the source, and nothing is run: code that moves to another module is found there, and no list is
kept by hand. Comments, docstrings and layout do not count. What `importlib` loads by a computed name is not seen.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from alignbench.records import fingerprint

PROJECT = ("alignbench", "datasets_prep")
"""Packages whose imports are followed."""
LIBRARIES = ("bitsandbytes", "numpy", "peft", "tokenizers", "torch", "transformers")
"""Libraries that decide what is drawn and computed, to the last digit: their installed versions count too."""
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
"""Where statements hold statements, the last two by way of their clauses."""


@cache
def code_hash(*modules: str, follow: bool = False) -> str:
    """Returns a hash of modules by name, of what these import in turn, and of the versions of Python and `LIBRARIES`.

    Modules outside the project are passed over, unless `follow` takes in the packages of those that are named;
    `ModuleNotFoundError` where one inside the project does not exist.
    """
    packages = (*PROJECT, *(name.partition(".")[0] for name in modules if follow))
    code = import_graph(modules, packages)
    return fingerprint([code, list(sys.version_info[:2]), {name: installed_version(name) for name in LIBRARIES}])


def import_graph(modules: Sequence[str], packages: Sequence[str] = ()) -> Mapping[str, str]:
    """Returns the code of modules and of whatever they import inside some packages, directly or not, by module name.

    Code is the text of its syntax tree. The packages are those of the project where none are given.

    An import counts wherever it is, in a function or in an `except`, but for what only type checkers see. With a
    module come the packages that it is in, whose `__init__` runs first.
    """
    packages, graph = packages or PROJECT, dict[str, str]()
    for name in modules:
        if name.partition(".")[0] in PROJECT and _source_file(name, packages) is None:
            raise ModuleNotFoundError(f"no source of {name}", name=name)
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        file = None if name in graph else _source_file(name, packages)
        if file is not None:
            package = name if file.name == "__init__.py" else name.rpartition(".")[0]
            graph[name], imported = _code_of(read_source(name, file), package)
            waiting += [name.rpartition(".")[0], *imported]
    return dict(sorted(graph.items()))


@cache
def _code_of(source: bytes, package: str) -> tuple[str, Sequence[str]]:
    """A module's code without words, and what it imports: one run asks for several hashes of much the same modules."""
    tree = _without_words(ast.parse(source))
    return ast.dump(tree), tuple(_imported(tree, package))


def read_source(name: str, file: Path) -> bytes:
    """Returns the source of a module, which is in a file."""
    return file.read_bytes()


def _source_file(name: str, packages: Sequence[str]) -> Path | None:
    """Returns where a module of the packages is; None for any other name, which is an attribute or a library's."""
    top, *rest = name.split(".")
    if top not in packages:
        return None
    path = directory_of(top).joinpath(*rest)
    module = path.with_name(f"{path.name}.py") if rest else path / f"{top}.py"  # a package may be a single file
    return next((file for file in (path / "__init__.py", module) if file.is_file()), None)


@cache
def directory_of(package: str) -> Path:
    """Returns the directory of a package at the top, or of a single module, without importing it."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _without_words(tree: ast.Module) -> ast.Module:
    """Takes out what never runs: strings that stand alone, such as docstrings, and what only type checkers see."""
    for node in _statements(tree):
        if isinstance(node, ast.If) and _asks_for_type_checking(node.test):
            node.body = []
        for field in _BLOCKS[:3]:
            if hasattr(node, field):
                setattr(node, field, [one for one in getattr(node, field) if not _is_string(one)])
    return tree


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yields a module or a statement, and all statements inside."""
    yield node
    for field in _BLOCKS:
        for inner in getattr(node, field, ()):
            yield from _statements(inner)


def _asks_for_type_checking(test: ast.expr) -> bool:
    return getattr(test, "id", getattr(test, "attr", None)) == "TYPE_CHECKING"


def _is_string(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Yields the absolute names of all that a module of a package may import, attributes of modules among them."""
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield start
            yield from (f"{start}.{alias.name}" for alias in node.names)


def installed_version(library: str) -> str | None:
    """Returns the version of a library; None where it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None
