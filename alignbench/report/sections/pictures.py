"""The pictures."""

from __future__ import annotations

from collections.abc import Iterator

from alignbench.report.blocks import Figure, Paragraph, Section
from alignbench.report.material import Material
from alignbench.report.pictures.costs import costs
from alignbench.report.pictures.curves import against_budget, against_divergence
from alignbench.report.pictures.distributions import distribution
from alignbench.report.pictures.forest import forest
from alignbench.report.pictures.frontier import frontier
from alignbench.report.pictures.hacking import hacking

_NONE = "There is nothing to draw: no recipe was measured on what these pictures show."


def pictures(material: Material) -> Section:
    """Returns every picture that there are numbers for."""
    return Section("pictures", "Pictures", list(drawn(material)) or [Paragraph(_NONE)])


def drawn(material: Material) -> Iterator[Figure]:
    """Yields the pictures, those of the judge that the report is about before those of others."""
    found = [
        forest(material, material.key),
        frontier(material),
        against_budget(material),
        against_divergence(material),
        hacking(material),
        *(distribution(material, key) for key in material.judges[:1]),
        costs(material),
        *(forest(material, key) for key in material.judges if key != material.key),
        *(distribution(material, key) for key in material.judges[1:]),
    ]
    yield from (one for one in found if one is not None)
