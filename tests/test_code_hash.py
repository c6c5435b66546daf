"""Keys of kept results: what they depend on is found from the imports, and from nothing else."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from alignbench import code_hash as hashing
from alignbench.code_hash import code_hash, import_graph
from alignbench.pipeline.drawing import code_of_drawing
from alignbench.scorers.text_classifier import ClassifierScorer
from alignbench.scorers.weighted_sum import Term, WeightedSum

FILES = {
    "__init__.py": "",
    "start.py": "from tmp_project.middle import work\nfrom . import beside\n",
    "middle.py": "def work():\n    from tmp_project.inner.deep import number\n    return number\n",
    "beside.py": "try:\n    import tmp_project.fallback\nexcept ImportError:\n    pass\n",
    "fallback.py": "",
    "inner/__init__.py": "from .shared import *\n",
    "inner/deep.py": "from ..cousin import value as number\n",
    "inner/shared.py": "",
    "inner/alone.py": "",
    "cousin.py": "value = 1\n",
    "typing_only.py": "import tmp_project.unrelated\n",
    "unrelated.py": "",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small package on the path; gives its directory, and the hash of its module `start` as it stands."""
    root = tmp_path / "tmp_project"
    for name, source in FILES.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(hashing, "PROJECT", ("tmp_project",))

    def hash_now(*modules):
        return code_hash.__wrapped__(*modules or ("tmp_project.start",))

    yield root, hash_now
    hashing.directory_of.cache_clear()


def test_the_graph_holds_what_is_imported_and_the_packages_around_it(project):
    assert list(import_graph(["tmp_project.start"])) == [
        "tmp_project",
        *(f"tmp_project.{name}" for name in ("beside", "cousin", "fallback", "inner", "inner.deep", "inner.shared")),
        "tmp_project.middle",
        "tmp_project.start",
    ]


@pytest.mark.parametrize("name", ["start", "middle", "inner/deep", "inner/__init__", "inner/shared", "cousin",
                                  "fallback", "__init__"])  # fmt: skip
def test_a_change_of_anything_imported_is_seen_however_far_away(project, name):
    root, hash_now = project
    before = hash_now()
    with (root / f"{name}.py").open("a") as file:
        file.write("more = 1\n")
    assert hash_now() != before


@pytest.mark.parametrize("name", ["unrelated", "typing_only", "inner/alone"])
def test_a_change_of_what_is_not_imported_is_not(project, name):
    root, hash_now = project
    before = hash_now()
    (root / f"{name}.py").write_text("more = 1\n")
    assert hash_now() == before


def test_an_import_that_comes_or_goes_changes_the_hash_and_what_it_covers(project):
    root, hash_now = project
    (root / "middle.py").write_text("import tmp_project.unrelated as work\n")
    before = hash_now()
    (root / "unrelated.py").write_text("more = 1\n")
    assert hash_now() != before
    before = hash_now()
    (root / "cousin.py").write_text("value = 2\n")
    assert hash_now() == before


def test_code_that_moves_to_a_new_module_stays_covered(project):
    root, hash_now = project
    (root / "cousin.py").write_text("from tmp_project.moved import value\n")
    (root / "moved.py").write_text("value = 1\n")
    before = hash_now()
    (root / "moved.py").write_text("value = 2\n")
    assert hash_now() != before


def test_imports_for_type_checkers_alone_do_not_count(project):
    root, hash_now = project
    plain = root / "cousin.py"
    for name in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        plain.write_text(f"if {name}:\n    import tmp_project.typing_only\nelse:\n    import tmp_project.inner.alone\n")
        graph = import_graph(["tmp_project.start"])
        assert "tmp_project.typing_only" not in graph
        assert "tmp_project.inner.alone" in graph
        before = hash_now()
        plain.write_text(plain.read_text().replace("typing_only", "unrelated"))
        assert hash_now() == before


SPEC = {
    "a comment": "def f(x):\n    # why\n    return x + 1\n",
    "a docstring": 'def f(x):\n    """Words."""\n    return x + 1\n',
    "a docstring of an attribute": 'def f(x):\n    return x + 1\n"""Words."""\n',
    "layout": "def f(\n    x,\n):\n    return (x +\n        1)\n\n\n",
}


@pytest.mark.parametrize("kind", SPEC)
def test_words_and_layout_are_no_change(project, kind):
    root, hash_now = project
    (root / "cousin.py").write_text("def f(x):\n    return x + 1\n")
    before = hash_now()
    (root / "cousin.py").write_text(SPEC[kind])
    assert hash_now() == before
    (root / "cousin.py").write_text(SPEC[kind].replace("1", "2"))
    assert hash_now() != before


def test_another_version_of_a_library_is_another_hash(project, monkeypatch):
    _, hash_now = project
    before = hash_now()
    for library in hashing.LIBRARIES:
        with monkeypatch.context() as patched:
            plain = hashing.version
            patched.setattr(hashing, "version", lambda name, at=library, of=plain: "0" if name == at else of(name))
            assert hash_now() != before, library
    assert hash_now() == before


def test_a_module_that_is_not_there_is_an_error_and_one_of_others_is_passed_over(project):
    _, hash_now = project
    with pytest.raises(ModuleNotFoundError, match=r"no source of tmp_project.strat"):
        hash_now("tmp_project.strat")
    assert hash_now("tmp_project.start", "json.decoder") == hash_now()


# The project itself.

DRAWING = ("alignbench.pipeline.drawing", "alignbench.scorers.text_classifier")
PREPARING = ("datasets_prep.prepare",)


def with_change(monkeypatch, module, start):
    """The hash of `start` with a statement more in `module`."""
    plain = hashing.read_source
    with monkeypatch.context() as patched:
        added = b"\nchanged = True\n"
        patched.setattr(hashing, "read_source", lambda name, file: plain(name, file) + added * (name == module))
        return code_hash.__wrapped__(*start)


@pytest.mark.parametrize(
    ("start", "module", "changes"),
    [
        # `pipeline.drawing` imports the language model, that the sampler, that `token_draw`, which draws a token.
        *((DRAWING, f"alignbench.{name}", True) for name in ("models.sampling.token_draw", "models.sampling.sampler",
            "models.sampling.growing_cache", "models.sampling.fixed_cache", "models.forward", "models.quantization",
            "models.dropout", "models.fast.layers", "runtime.clock", "records", "scorers.text_classifier")),
        (DRAWING, "datasets_prep.cache", True),
        (DRAWING, "datasets_prep.preference_pairs", False),  # pairs are made anew of what was drawn
        *((DRAWING, f"alignbench.{name}", False) for name in ("cli", "pipeline.execute", "pipeline.build",
            "recipe.recipe", "statistics.crossed", "comparison.compare", "evaluation.evaluator",
            "methods.on_policy.trainer", "methods.dpo", "scorers.lexicon")),
        (DRAWING, "datasets_prep.columns", False),
        *((PREPARING, f"datasets_prep.{name}", True) for name in ("splits", "prompt_lengths", "columns", "local_files",
            "cache", "sources.base")),
        (PREPARING, "alignbench.records", True),
        (PREPARING, "datasets_prep.neutral_texts", False),
        (PREPARING, "datasets_prep.preference_pairs", False),
        (PREPARING, "alignbench.models.sampling.token_draw", False),
    ],
)  # fmt: skip
def test_pairs_and_prompts_follow_the_code_that_makes_them(monkeypatch, start, module, changes):
    assert find_spec(module) is not None
    assert (with_change(monkeypatch, module, start) != code_hash(*start)) == changes


@pytest.mark.parametrize("start", [DRAWING, PREPARING])
def test_nothing_is_loaded_by_a_computed_name(start):
    """The hash would not see it; the exports of the package itself are for its users alone.

    Sources of data are found by name, and the hash of prepared data takes in each one that is named.
    """
    names = {"import_module", "__import__", "exec", "run_path", "run_module"}
    for name in import_graph(start):
        tree = ast.parse(Path(find_spec(name).origin).read_bytes())
        used = {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(tree)}
        assert name in ("alignbench", "alignbench.plugins") or not used & names, name


def test_each_part_of_a_sum_that_labels_counts(monkeypatch):
    classifier = object.__new__(ClassifierScorer)
    whole = WeightedSum([Term("a", classifier, 1.0)], name="reward")
    plain = code_of_drawing(None, whole)
    assert plain != code_of_drawing(None, WeightedSum([], name="reward"))
    assert plain == code_hash(*DRAWING, "alignbench.scorers.weighted_sum")
