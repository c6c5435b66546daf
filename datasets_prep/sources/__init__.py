"""Sources of data by name: one file for one source, and those of installed packages (`alignbench.sources`).

A file, a folder that `save_to_disk` wrote and a data set on the hub are named by path or id, and need no source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from alignbench.code_hash import code_hash
from alignbench.errors import UsageError
from alignbench.plugins import SOURCES
from datasets_prep.rows import Row
from datasets_prep.sources.base import Kind, Source


def find(name: str, gives: Kind) -> Source | None:
    """Returns the source that a recipe names; None where no source of this kind has the name.

    Raises:
        UsageError: What an installed package offers under this name is no source, or cannot be imported.
    """
    if name in SOURCES.names():
        source = _load(name)
        return source if gives in source.gives else None
    return next((one for _, one in _all() if name in one.aliases and gives in one.gives), None)


def names(gives: Kind) -> list[str]:
    """Returns the names of the sources of a kind, sorted."""
    return [name for name, source in _all() if gives in source.gives]


def of_copy(path: Path) -> Source | None:
    """Returns the source that a file or folder is a local copy of."""
    return next((source for _, source in _all() if source.is_copy(path)), None)


def of_layout(rows: Sequence[Row]) -> tuple[Sequence[Row], Source | None]:
    """Returns the rows as the source reads them whose layout they have, and that source; else the rows alone."""
    for _, source in _all():
        known = source.of_layout(rows)
        if known is not None:
            return known, source
    return rows, None


def code_of(*names: str | None) -> str | None:
    """Returns a hash of the code of the sources among these names, with the packages that bring them; None: of none."""
    found = (_load(name) for name in names if name is not None and name in SOURCES.names())
    modules = sorted({source.read.__module__ for source in found})
    return code_hash(*modules, follow=True) if modules else None


def _load(name: str) -> Source:
    source = SOURCES.load(name)
    if not isinstance(source, Source):
        raise UsageError(f"source of data {name!r} of {SOURCES.owner(name)} is {source!r}, expected a Source")
    return source


def _all() -> Iterator[tuple[str, Source]]:
    """Every source by name, but what an installed package cannot make good: that is said where it is named."""
    for name in SOURCES.names():
        with suppress(UsageError):
            yield name, _load(name)
