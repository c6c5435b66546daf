"""Writer of CSV: the records, numbers to the last digit."""

from __future__ import annotations

import csv
from io import StringIO

from alignbench.comparison.comparison import Comparison

LIST_SEPARATOR = " | "
"""Between the items of a list in a cell."""


def write(comparison: Comparison) -> str:
    """Returns the records with one header and no comments; lists as text, what is null as an empty cell."""
    records = comparison.records()
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(records[0])
    writer.writerows([_cell(value) for value in record.values()] for record in records)
    return text.getvalue().rstrip("\n")


def _cell(value: object) -> object:
    return LIST_SEPARATOR.join(map(str, value)) if isinstance(value, list) else value


plugin = write
