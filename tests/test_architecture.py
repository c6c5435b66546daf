"""Rules of the house that hold by themselves; the directions of imports are contracts in setup.cfg."""

import ast
import re
from collections import Counter
from pathlib import Path

import grimp
import pytest

from alignbench import plugins

ROOT = Path(__file__).parents[1]
PACKAGES = ("alignbench", "datasets_prep")
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if "recorded" not in path.parts)
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60


@pytest.fixture(scope="module")
def graph():
    """Who imports whom, for its types alone as well."""
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=False)


def named(path):
    return path.relative_to(ROOT).as_posix()


def functions(path):
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_files_are_short():
    long = {named(path): n for path in (*SOURCES, *TESTS) if (n := len(path.read_text().splitlines())) > MOST_LINES}
    assert long == {}


def test_functions_are_short():
    lengths = {
        f"{named(path)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path in (*SOURCES, *TESTS)
        for node in functions(path)
    }
    assert {place: n for place, n in lengths.items() if n >= MOST_LINES_OF_A_FUNCTION} == {}


def test_no_module_imports_itself_by_way_of_others(graph):
    """Nor for its types: what cannot be named without a circle is in the wrong place."""
    left = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    while leaves := {module for module, imported in left.items() if not imported}:
        left = {module: imported - leaves for module, imported in left.items() if module not in leaves}
    assert {module for module in left if reaches_itself(left, module)} == set()


def reaches_itself(imports, module):
    seen, ahead = set(), [module]
    while ahead:
        for other in imports.get(ahead.pop(), ()):
            if other == module:
                return True
            if other not in seen:
                seen.add(other)
                ahead.append(other)
    return False


@pytest.mark.parametrize("kind", [plugins.METHODS, plugins.METRICS, plugins.PROBES, plugins.WRITERS])
def test_no_plug_in_imports_another_of_its_kind(graph, kind):
    """Those of one kind are never needed together; what they share has a module of its own, which binds none."""
    modules = set(kind.built_in.values())
    assert [(a, b) for a in modules for b in graph.find_modules_directly_imported_by(a) if b in modules] == []


def private(name):
    return name.startswith("_") and not name.startswith("__")


def test_no_module_reaches_for_a_private_name_of_another():
    assert [f"{named(path)}: {found}" for path in (*SOURCES, *TESTS) for found in reached(path)] == []


def reached(path):
    """Private names that a file imports, or takes from a module or from a class of the project."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ours = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            yield from (f"{node.module}.{alias.name}" for alias in node.names if private(alias.name))
            ours |= {alias.asname or alias.name: node.module for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and isinstance(node.value, ast.Name):
            if node.value.id in ours:
                yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            first, *others = node.value.split(".")
            if first in PACKAGES and all(part.isidentifier() for part in others) and any(map(private, others)):
                yield node.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr") and len(node.args) > 1:
            target, name = node.args[:2]
            if isinstance(target, ast.Name) and target.id in ours and isinstance(name, ast.Constant):
                yield from [ast.unparse(node)[:60]] if private(str(name.value)) else []


def test_what_only_tests_use_is_not_there():
    """Every public function, class and method is named once more in source, benchmarks, examples, documentation."""
    folders = ("benchmarks", "examples", "docs")
    users = [p for name in folders for p in (ROOT / name).rglob("*") if p.suffix in (".py", ".md")]
    words = Counter(re.findall(r"\w+", "\n".join(p.read_text(encoding="utf-8") for p in [*SOURCES, *users])))
    defined = [(path, node) for path in SOURCES for node in definitions(ast.parse(path.read_text(encoding="utf-8")))]
    unused = {f"{named(path)}: {node.name}" for path, node in defined if words[node.name] < 2}
    assert {one for one in unused if one.rpartition(" ")[2] not in CALLED_BY_OTHERS} == set()


CALLED_BY_OTHERS = {"list_runs", "on_save", "on_train_end", "on_log", "compute_loss"}
"""By click, and by trainers."""


def definitions(tree):
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node)
