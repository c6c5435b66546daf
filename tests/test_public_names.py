"""The public Python surface: these names and no others, and no package that takes the place of one."""

import subprocess
import sys

import pytest

import alignbench

NOUNS = ("Completion", "Cost", "Decoding", "MetricKey", "Policy", "PreferencePair", "Prompt", "Scorer")
LOADERS = ("completions", "curves", "divergence", "events", "metrics", "results", "train_completions", "train_log")


def test_these_and_no_others():
    others = ("AlignbenchError", "Chat", "Lora", "PPOConfig", "PPOTrainer", "__version__", "compare", "evaluate")
    work = ("load_policy", "load_recipes", "run")
    assert sorted(alignbench.__all__) == sorted([*NOUNS, *(f"load_{name}" for name in LOADERS), *others, *work])
    assert dir(alignbench) == sorted(alignbench.__all__)


@pytest.mark.parametrize("name", alignbench.__all__)
def test_each_is_there_and_documented(name):
    found = getattr(alignbench, name)
    assert name == "__version__" or found.__doc__


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'load_everything'"):
        _ = alignbench.load_everything


def test_no_package_takes_the_place_of_a_function_once_it_is_imported():
    """`import alignbench.x` binds x in the package: a subpackage called as a function is would replace it."""
    program = (
        "import pkgutil, alignbench; "
        "print([m.name for m in pkgutil.iter_modules(alignbench.__path__) if m.name in alignbench.__all__])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"


def test_importing_it_loads_no_library():
    program = "import sys, alignbench; print([m for m in ('torch', 'pandas', 'numpy', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"
