"""Before and after, side by side."""

from __future__ import annotations

from alignbench.report.blocks import Paragraph, Section, Texts
from alignbench.report.material import Material
from alignbench.report.sample import draw

_NONE = "No completions were stored, or none that can be read."


def texts(material: Material, most: int, most_bytes: int) -> Section:
    """Returns prompts with what every recipe wrote."""
    sample = draw(material, most, most_bytes)
    if sample is None:
        return Section("texts", "Before and after", [Paragraph(_NONE)])
    return Section("texts", "Before and after", [Paragraph(" ".join(sample.said), "remark"), Texts(sample)])
