"""Pictures as PNG, by resvg: an extra, needed for nothing else."""

from __future__ import annotations

from importlib.util import find_spec

from alignbench.errors import UsageError

_ZOOM = 2
"""Pixels of the file for one of the picture: sharp on today's screens."""


_LETTER = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"><text y="16">{}</text></svg>'


def require_png() -> None:
    """UsageError where what turns pictures into PNG is not installed, or would leave out all letters."""
    if find_spec("resvg_py") is None:
        raise UsageError("PNG needs resvg: pip install 'alignbench[png]', or take --figure-format svg")
    if png(_LETTER.format("A")) == png(_LETTER.format(" ")):
        raise UsageError("PNG needs a font, and none is installed here: install one, or take --figure-format svg")


def png(svg: str) -> bytes:
    """Returns a picture as PNG, twice as large."""
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=_ZOOM))
