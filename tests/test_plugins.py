"""How plug-ins are found; those of each kind are tested with their kind."""

from importlib.metadata import EntryPoint

import pytest

from alignbench import plugins
from alignbench.errors import UsageError
from alignbench.plugins import Plugins


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """A kind of plug-in whose built-in ones are two modules of a package; the third binds none."""
    package = tmp_path / "toy_plugins"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a_bear.py").write_text("plugin = 'bear'\n")
    (package / "ball.py").write_text('"""A ball."""\nplugin = "ball"\n')
    (package / "shared.py").write_text("def f():\n    plugin = 1\n    return plugin\n")
    monkeypatch.syspath_prepend(tmp_path)
    return Plugins("toy", "toys.group", "toy_plugins", word_separator="-")


@pytest.fixture
def offered(monkeypatch):
    """Makes installed packages offer names and places, in the group of toys."""

    def offer(**places):
        entries = tuple(EntryPoint(name, place, "toys.group") for name, place in places.items())
        monkeypatch.setattr(plugins, "entries_of", lambda group: entries if group == "toys.group" else ())

    return offer


def test_built_in_ones_are_modules_that_bind_plugin_called_as_their_files(toys, offered):
    offered()
    assert toys.names() == ["a-bear", "ball"]
    assert [toys.load(name) for name in toys.names()] == ["bear", "ball"]
    assert toys.built_in == {"a-bear": "toy_plugins.a_bear", "ball": "toy_plugins.ball"}
    assert toys.owner("ball") == "alignbench itself"


def test_installed_ones_are_listed_without_import_and_loaded_by_name(toys, offered):
    offered(kite="os.path:join", broken="no_such_module:X", none="os.path:no_such_name")
    assert toys.names() == ["a-bear", "ball", "broken", "kite", "none"]
    import os

    assert toys.load("kite") is os.path.join
    assert toys.owner("kite") == "the entry point 'os.path:join'"
    for name, said in (("broken", "ModuleNotFoundError"), ("none", "AttributeError")):
        with pytest.raises(UsageError, match=rf"toy '{name}' of the entry point .* cannot be imported .*{said}"):
            toys.load(name)


def test_an_unknown_name_has_a_nearest_one_and_the_place_that_names_it(toys, offered):
    offered(kite="os.path:join")
    with pytest.raises(UsageError, match=r"box\.toy: unknown toy 'kites', did you mean 'kite'\? \(known: a-bear, "):
        toys.load("kites", "box.toy")


def test_a_name_is_taken_once(toys, offered):
    offered(ball="os.path:join")
    with pytest.raises(UsageError, match=r"'os.path:join' offers a toy called 'ball', .* alignbench itself .* rename"):
        toys.names()
    assert toys.load("ball") == "ball"  # what is built in is found without asking what is installed


def test_every_kind_has_built_in_ones():
    kinds = (plugins.METHODS, plugins.SCORERS, plugins.METRICS, plugins.PROBES, plugins.SOURCES, plugins.WRITERS)
    assert [kind for kind in kinds if not kind.built_in] == []
    assert len({kind.group for kind in kinds}) == len(kinds)
