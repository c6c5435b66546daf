"""A picture, inside of a page or as a file of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from alignbench.report.pictures.svg import COLOURS, element

_NAMESPACE = "http://www.w3.org/2000/svg"


def file_name(text: str) -> str:
    """Returns a text in which all but letters, digits, `-` and `.` is `_`: fit for a file and for an anchor."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", text)


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn, what it shows, and how it is read."""

    name: str
    """Of its file."""
    title: str
    description: str
    """What is seen, for those who cannot: one or two sentences."""
    width: float
    height: float
    body: Markup
    remarks: Sequence[str] = ()
    """How it is read, below it."""

    @property
    def _size(self) -> dict[str, object]:
        width, height = round(self.width), round(self.height)
        return {"viewBox": f"0 0 {width} {height}", "width": width, "height": height}

    def inline(self) -> Markup:
        """Returns it as an element of a page."""
        names = {"role": "img", "aria_label": f"{self.title}. {self.description}", "class_": "picture"}
        return element("svg", self.body, **self._size, **names)

    def file(self) -> str:
        """Returns it as a file, on a white ground."""
        ground = element("rect", width="100%", height="100%", fill=COLOURS["ground"])
        said = element("title", self.title) + element("desc", self.description)
        whole = element(
            "svg",
            said + ground + self.body,
            xmlns=_NAMESPACE,
            **self._size,
            font_family="Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif",
        )
        return f"{whole}\n"
