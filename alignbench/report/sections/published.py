"""What others have published, beside ours: never ranked, never tested together with it."""

from __future__ import annotations

from alignbench.report.blocks import Items, Paragraph, Section, plain_table
from alignbench.report.published import PublishedTable

_APART = (
    "Numbers of others, as they printed them. They are in no test and no ranking of this page: no difference between "
    "one of them and a row above means anything."
)


def published_rows(protocol: str | None, table: PublishedTable) -> Section:
    """Returns the published rows with their source, their scorer, and whether the protocol is ours."""
    about = [
        f"Source: {table.source}.",
        f"Scorer: {table.scorer}.",
        f"Same protocol? {_same_protocol(protocol, table)}.",
    ]
    rows = [[row.what, *row.numbers] for row in table.rows]
    title = f"Published beside {table.protocol}"
    numbers = plain_table(title, ["published", *table.columns], rows)
    return Section("published", title, [Paragraph(_APART), Items(about), numbers])


def _same_protocol(ours: str | None, table: PublishedTable) -> str:
    """Returns why it is none: an original is never quite what we call by its name."""
    other = [] if ours == table.protocol else [f"this page is under {ours}"]
    return f"No: {'; '.join([*other, *table.differs])}"
