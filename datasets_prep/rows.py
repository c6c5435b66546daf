"""Raw rows with their places in a file, and how their faults are told: all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alignbench.errors import DataError

Row = Mapping[str, Any]
_MOST_LISTED = 10
_MOST_CHARS = 60


class FileRows(list[dict[str, Any]]):
    """Rows, and the line of the file that each begins in."""

    def __init__(self, rows: Iterable[dict[str, Any]], lines: Sequence[int]) -> None:
        super().__init__(rows)
        self.lines = lines


def place(rows: Sequence[Row], index: int) -> str:
    """Returns `row 7`, counted from 1, with the line of the file where it is known: `line 8, row 7`."""
    line = f"line {rows.lines[index]}, " if isinstance(rows, FileRows) else ""
    return f"{line}row {index + 1}"


def like(rows: Sequence[Row], changed: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns changed rows with the lines of those that they were made from."""
    return FileRows(changed, rows.lines) if isinstance(rows, FileRows) else list(changed)


def shown(value: object) -> str:
    """Returns a value as a message shows it, shortened."""
    text = repr(value[: 2 * _MOST_CHARS] if isinstance(value, str) else value)
    return text if len(text) <= _MOST_CHARS else text[: _MOST_CHARS - 3] + "..."


def faults_error(origin: str, faults: Sequence[str], cure: str = "") -> DataError:
    """Returns the error for faults such as `line 3: is not JSON`: the one, or a list of the first ones.

    Args:
        origin: The key and the source: `data.prompts: rows.csv`.
        faults: Each with its place, in the order of the rows; at least one.
        cure: A sentence for all of them.
    """
    end = f". {cure}" if cure else "."
    if len(faults) == 1:
        return DataError(f"{origin}, {faults[0]}{end}")
    more = f"\n  and {len(faults) - _MOST_LISTED} more" if len(faults) > _MOST_LISTED else ""
    lines = "".join(f"\n  {fault}" for fault in faults[:_MOST_LISTED])
    return DataError(f"{origin}: {len(faults)} rows cannot be used:{lines}{more}" + (f"\n{cure}" if cure else ""))
