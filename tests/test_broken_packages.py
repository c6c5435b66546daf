"""A package that is broken is named to those who use it, and is in nobody else's way."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest
from click.testing import CliRunner

from alignbench import cli, plugins
from alignbench.comparison.formats import writer
from alignbench.errors import UsageError
from alignbench.pipeline.input_checks import check_inputs
from alignbench.results.traits import Traits

five = 5


@pytest.fixture
def broken(monkeypatch):
    """Installs, in a group, `absent`, which cannot be imported, or `five`, which is a number."""

    def install(group, name):
        value = "no_such_module_anywhere:X" if name == "absent" else "elsewhere:five"
        entries = [EntryPoint(name, value, group)]
        monkeypatch.setattr(plugins, "entry_points", lambda group: [one for one in entries if one.group == group])
        plugins.entries_of.cache_clear()

    monkeypatch.setitem(sys.modules, "elsewhere", sys.modules[__name__])
    yield install
    monkeypatch.undo()
    plugins.entries_of.cache_clear()


@pytest.mark.parametrize(
    ("name", "why"), [("absent", "No module named 'no_such"), ("five", "'five' is 5; a method is")]
)
def test_methods_are_listed_beside_a_broken_one(broken, name, why):
    broken("alignbench.methods", name)
    listed = CliRunner().invoke(cli.main, ["methods"])
    assert listed.exit_code == 0
    rows = {row.split()[0]: row for row in listed.output.splitlines()}
    assert rows.keys() == {name, *plugins.METHODS.built_in}
    assert "(cannot be used)" in rows[name]
    assert why in rows[name]
    assert "(cannot be used)" not in rows["untrained"]


@pytest.mark.parametrize("name", ["absent", "five"])
@pytest.mark.parametrize("kind", [plugins.METRICS, plugins.PROBES], ids=lambda kind: kind.kind)
def test_what_is_no_metric_is_said_with_its_owner(broken, kind, name):
    broken(kind.group, name)
    with pytest.raises(UsageError, match=f"{kind.kind} '{name}' of the entry point "):
        plugins.metrics()
    assert Traits.of("of_a_package_that_is_gone") == Traits()  # reading results goes on


@pytest.mark.parametrize("name", ["absent", "five"])
def test_a_broken_metric_is_found_before_training(broken, name):
    check_inputs([])
    broken("alignbench.metrics", name)
    with pytest.raises(UsageError, match=f"metric '{name}' of the entry point "):
        check_inputs([])


def test_a_format_that_is_no_function_is_refused(broken):
    broken("alignbench.writers", "five")
    with pytest.raises(UsageError, match="--format: 'five' of the entry point 'elsewhere:five' is 5; a format is a fu"):
        writer("five")
