"""Finds what plugs in by its name: what alignbench brings, and what installed packages add by entry points.

A built-in plug-in is a module that binds `plugin`, and has the name of its file. A package adds one by an entry point,
whose name is the plug-in's name in a recipe or on the command line:

    [options.entry_points]
    alignbench.methods =
        my_method = my_package.my_method:MyMethod
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module, metadata
from importlib.metadata import EntryPoint, EntryPoints
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alignbench.errors import UsageError, did_you_mean

_BINDS_PLUGIN = re.compile(r"^plugin\b", re.MULTILINE)


@dataclass(frozen=True)
class Plugins:
    """All plug-ins of one kind."""

    kind: str
    """One of them in words, for messages: `method`."""
    group: str
    """The group of the entry points that add to them."""
    package: str
    """The package whose modules are the built-in ones."""
    word_separator: str = "_"
    """What names have where a file's name has an underscore."""

    def names(self) -> list[str]:
        """Returns the names of all plug-ins, sorted, without importing any.

        Raises:
            UsageError: An installed package claims a name that is taken.
        """
        return sorted({*self.built_in, *self._added})

    def load(self, name: str, where: str = "") -> Any:
        """Returns the plug-in of a name.

        Args:
            name: Its name.
            where: The recipe's key or the option that names it, for messages.

        Raises:
            UsageError: There is none of this name, or what a package offers under it cannot be imported.
        """
        if name in self.built_in:  # without asking what is installed, which takes a while
            return import_module(self.built_in[name]).plugin
        known = self.names()
        if name not in known:
            place = f"{where}: " if where else ""
            raise UsageError(
                f"{place}unknown {self.kind} {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})"
            )
        entry = self._added[name]
        try:
            return entry.load()
        except Exception as error:  # what a module does when it is imported has no common type
            raise UsageError(
                f"{self.kind} {name!r} of {_owner(entry)} cannot be imported from {entry.value}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def owner(self, name: str) -> str:
        """Returns who brings a plug-in, in words."""
        return "alignbench itself" if name in self.built_in else _owner(self._added[name])

    @cached_property
    def built_in(self) -> dict[str, str]:
        """The modules of what alignbench brings, by name."""
        spec = find_spec(self.package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        files = [file for folder in spec.submodule_search_locations for file in Path(folder).glob("*.py")]
        return {
            file.stem.replace("_", self.word_separator): f"{self.package}.{file.stem}"
            for file in sorted(files)
            if _BINDS_PLUGIN.search(file.read_text(encoding="utf-8"))
        }

    @property
    def _added(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for entry in entries_of(self.group):
            if entry.name in self.built_in or entry.name in found:
                taken = "alignbench itself" if entry.name in self.built_in else _owner(found[entry.name])
                raise UsageError(
                    f"{_owner(entry)} offers a {self.kind} called {entry.name!r}, a name that {taken} already uses; "
                    "rename its entry point or uninstall the package"
                )
            found[entry.name] = entry
        return found


@cache
def entries_of(group: str) -> tuple[EntryPoint, ...]:
    """Returns what installed packages offer in a group of entry points, read once a process."""
    return tuple(entry_points(group=group))


def entry_points(group: str) -> EntryPoints:
    """Returns the entry points of a group. Those of all groups are read at once: to read some takes as long."""
    found: EntryPoints = _installed(tuple(sys.path)).select(group=group)
    return found


@cache
def _installed(path: tuple[str, ...]) -> Any:
    """What the packages in the folders of a path offer."""
    return metadata.entry_points()


def _owner(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name!r}" if entry.dist else f"the entry point {entry.value!r}"


METHODS = Plugins("method", "alignbench.methods", "alignbench.methods")
SCORERS = Plugins("scorer", "alignbench.scorers", "alignbench.scorers")
METRICS = Plugins("metric", "alignbench.metrics", "alignbench.evaluation.metrics")
PROBES = Plugins("probe", "alignbench.probes", "alignbench.evaluation.probes")
SOURCES = Plugins("source of data", "alignbench.sources", "datasets_prep.sources")
WRITERS = Plugins("format", "alignbench.writers", "alignbench.comparison.writers", word_separator="-")


def metrics(*kinds: Plugins, added: bool | None = None) -> Mapping[str, Any]:
    """Returns metrics by name, in the order of reports: of some kinds of plug-ins, or of all.

    A plug-in of METRICS is a metric or several, and so is a probe that every evaluation includes; any other of PROBES
    has `metrics`. With `added` only those that packages have added, with False only those of alignbench itself.

    Raises:
        UsageError: Two metrics have one name, or a package's cannot be imported.
    """
    kinds = kinds or (METRICS, PROBES)
    return _metrics(kinds, () if added is False else tuple(entries_of(kind.group) for kind in kinds), added)


def _metrics_of(kind: Plugins, name: str) -> tuple[Any, ...]:
    """The metrics of a plug-in; UsageError where it is none."""
    plugin = kind.load(name)
    found = getattr(plugin, "metrics", plugin if isinstance(plugin, tuple) else (plugin,))
    if not isinstance(found, tuple) or not all(hasattr(metric, "direction") for metric in found):
        what = "has a tuple of Metric as its `metrics`" if kind is PROBES else "is a Metric or a tuple of them"
        raise UsageError(f"{kind.kind} {name!r} of {kind.owner(name)} is {plugin!r}; a {kind.kind} plug-in {what}")
    return found


@cache
def _metrics(
    kinds: tuple[Plugins, ...], _: tuple[tuple[EntryPoint, ...], ...], added: bool | None
) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    named = [(kind, name) for kind in kinds for name in kind.built_in if not added]
    named += [(kind, name) for kind in kinds if added is not False for name in sorted(kind._added)]
    for kind, name in named:
        for metric in _metrics_of(kind, name):
            if metric.name in found:
                raise UsageError(f"{kind.owner(name)}: two metrics are called {metric.name!r}; one needs another name")
            found[metric.name] = metric
    return dict(sorted(found.items(), key=lambda item: item[1].order))
