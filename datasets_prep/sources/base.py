"""What a source of data is: rows by a name in a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datasets_prep.rows import Row
from datasets_prep.settings import ColumnMapping

Kind = Literal["prompts", "texts"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a recipe asks a source for."""

    key: str
    """The recipe's key that names the source, for messages: `data.prompts`."""
    split: str | None = None
    """None: the source's own choice."""
    revision: str | None = None
    """Revision of its data set on the hub; None: the newest."""
    folder: Path | None = None
    """A local copy, where the recipe names one that the source knows by `is_copy`."""


@dataclass(frozen=True, slots=True)
class Source:
    """A source of prompts, perhaps with completions, or of texts. A recipe names it by its file or entry point."""

    read: Callable[[Request], Sequence[Row]]
    """Returns raw rows; cells may be nested mappings. Raises DataError, whose message begins with the request's key."""
    gives: frozenset[Kind] = frozenset({"prompts"})
    """`prompts` for `data`, `evaluation.prompts`, `demonstrations` and `pairs`; `texts`, in the column `text`, for
    `evaluation.neutral`."""
    columns: ColumnMapping = field(default_factory=ColumnMapping)
    """Where its rows keep what is needed, where these are not the usual names; a recipe's own `columns` go first."""
    heldout: Mapping[str, Any] = field(default_factory=dict)
    """Settings of held-out prompts that a recipe gives by the source's name alone."""
    has_messages: bool = False
    """True where its rows say the same as `messages` too, which chat models read in place of prompt and completion."""
    in_file_order: bool = False
    """True where the order of its rows means something; else prompts come in the order of a hash of their ids."""
    hub_id: str | None = None
    """The data set on the hub that it reads, whose commit tells one reading from another; None: nothing is fetched."""
    aliases: tuple[str, ...] = ()
    """Other names, such as the id on the hub of what cannot be read from there as it lies."""
    files: Callable[[], Iterable[Path]] = tuple
    """Returns the files on this machine that it reads; their hashes tell one reading from another."""
    is_copy: Callable[[Path], bool] = lambda _path: False
    """True for a file or folder that is a local copy of it."""
    of_layout: Callable[[Sequence[Row]], Sequence[Row] | None] = lambda _rows: None
    """Returns what rows from elsewhere mean where they have the layout of this source alone; None for all others."""
