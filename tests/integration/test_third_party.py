"""The package of examples/third_party, installed into a clean environment, plugs in without a change to alignbench."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import alignbench
from alignbench import plugins

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "third_party"


@pytest.fixture(scope="module")
def site(wheel, made_once):
    """A folder with nothing but wheels of alignbench and of the example; their dependencies are the interpreter's."""

    def install(folder):
        source = folder / "source"  # a copy, since setuptools leaves a build folder behind
        shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")
        offline = ("--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder / "site"))
        done = subprocess.run([*pip, *offline, str(wheel), str(source)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return made_once("site", install) / "site"


@pytest.fixture(scope="module")
def python(site, fork, tmp_path_factory):
    """Runs Python with that folder first on its path, in an empty folder; returns what it printed."""
    folder = tmp_path_factory.mktemp("empty")
    environment = {**os.environ, "PYTHONPATH": str(site), "ALIGNBENCH_CACHE": str(folder / "cache")}
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COLUMNS": "200"}

    def run(*arguments):
        (ended,) = fork(arguments, [environment], folder)
        assert ended.code == 0, ended.output + ended.errors
        return ended.output

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def results(python):
    """The suite of the example, run."""
    python("-m", "alignbench", "run", EXAMPLE / "recipes" / "example.yaml", "--results", "results")
    return python.folder / "results"


def test_entry_points_are_found_where_the_package_is_installed(python, site):
    code = (
        "import alignbench, json; from alignbench import plugins; "
        "kinds = [kind for kind in vars(plugins).values() if isinstance(kind, plugins.Plugins)]; "
        "added = {kind.kind: sorted({*kind.names()} - {*kind.built_in}) for kind in kinds}; "
        "print(json.dumps([alignbench.__file__, added, plugins.METHODS.owner('unpaired_apo')]))"
    )
    file, added, owner = json.loads(python("-c", code))
    assert file.startswith(str(site))
    assert added == {
        "method": ["best_of_few", "unpaired_apo"],
        "scorer": ["address"],
        "metric": ["finished_rate"],
        "probe": ["harmless"],
        "source of data": ["encounters"],
        "format": ["brief"],
    }
    assert owner == "the package 'alignbench-example'"


def test_they_run_and_are_compared(python, results):
    for recipe in ("base", "best_of_few", "unpaired_apo"):
        assert json.loads((results / recipe / "seed0" / "status.json").read_text())["state"] == "complete"
    table = python("-m", "alignbench", "compare", results, "--details")
    assert "toxicity_mean@at_you: held-out judge" in table
    costs = [
        line
        for line in table.splitlines()
        if line.startswith(("base ", "best_of_few ", "unpaired_apo ")) and "x)" in line
    ]
    assert [line.split()[0] for line in costs] == ["base", "best_of_few", "unpaired_apo"]
    # Four answers are drawn for one, and no two answers are equally long.
    times = [float(re.search(r"\(([\d.]+)x\)", line).group(1)) for line in costs]
    assert times[0] == 1
    assert 3 < times[1] < 5
    assert 0.5 < times[2] < 1.5


def test_what_they_measure_is_in_the_results(python, results):
    rows = json.loads(python("-m", "alignbench", "compare", results, "--format", "json"))
    values = {(row["recipe"], row["metric"], row["scorer"]): row["value"] for row in rows}
    for recipe in ("base", "best_of_few", "unpaired_apo"):
        assert 0 <= values[recipe, "finished_rate", None] <= 1
        assert 0 < values[recipe, "harmless_words", None] <= 12
        assert 0 <= values[recipe, "toxicity_mean", "at_you"] <= 1
    assert values["best_of_few", "toxicity_mean", "reward"] < values["base", "toxicity_mean", "reward"]
    completions = pd.read_parquet(next((results / "base").rglob("evaluations/*/completions.parquet")))
    finished = [text.rstrip().endswith((".", "?", "!")) for text in completions["completion"]]
    assert values["base", "finished_rate", None] == pytest.approx(sum(finished) / len(finished))
    brief = python("-m", "alignbench", "compare", results, "--format", "brief").splitlines()
    assert [line.partition(":")[0] for line in brief] == ["base", "best_of_few", "unpaired_apo"]
    assert f"finished_rate {values['unpaired_apo', 'finished_rate', None]:.4g}" in brief[2]


OWN_TESTS = EXAMPLE / "tests" / "test_plugins.py"


@pytest.fixture
def here(site, monkeypatch):
    """The package in this process too."""
    monkeypatch.syspath_prepend(site)
    plugins.entries_of.cache_clear()
    yield
    monkeypatch.undo()
    plugins.entries_of.cache_clear()


def test_a_saved_policy_is_found_by_its_kind(here, results):
    policy = alignbench.load_policy(results / "best_of_few" / "seed0" / "artifact")
    assert (type(policy).__module__, policy.n) == ("alignbench_example.best_of_few", 4)
    assert len(policy.generate([alignbench.Prompt("a", "The dog said,")], alignbench.Decoding(4), 2, (0,))) == 2


@pytest.mark.parametrize("name", re.findall(r"^def (test_\w+)", OWN_TESTS.read_text(encoding="utf-8"), re.MULTILINE))
def test_the_tests_of_the_package_itself(here, name):
    runpy.run_path(str(OWN_TESTS))[name]()
