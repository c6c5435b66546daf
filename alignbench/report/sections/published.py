"""What others have published, beside ours: never ranked, never tested together with it."""

from __future__ import annotations

from alignbench.report.blocks import Paragraph, Section, plain_table
from alignbench.report.material import Material
from alignbench.report.published import PublishedTable

_APART = (
    "Numbers of others, as they printed them. They are in no test and no ranking of this page: no difference between "
    "one of them and a row above means anything."
)


def published_rows(material: Material, table: PublishedTable) -> Section:
    """Returns the published rows with their source, their scorer, and whether the protocol is ours."""
    same = _same_protocol(material, table)
    rows = [[row.what, *row.numbers, table.source, table.scorer, same] for row in table.rows]
    header = ["published", *table.columns, "source", "scorer", "same protocol?"]
    title = f"Published beside {table.protocol}"
    return Section("published", title, [Paragraph(_APART), plain_table(title, header, rows)])


def _same_protocol(material: Material, table: PublishedTable) -> str:
    """Returns why it is none: an original is never quite what we call by its name."""
    ours = material.comparison.protocol
    other = [] if ours == table.protocol else [f"this page is under {ours}"]
    return f"no: {'; '.join([*other, *table.differs])}"
