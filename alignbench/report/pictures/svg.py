"""SVG by hand: elements, scales, axes.

Colours stand in the elements, for a light ground, so that a picture is whole by itself; each has a class besides, by
which the page changes it for a dark one. What something is, is never said by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from alignbench.comparison.numbers import number
from alignbench.report.text import one_line, shortened

COLOURS = {
    "ink": "#1c1c1c",
    "muted": "#5f6368",
    "grid": "#d9dce0",
    "faint": "#b4b9bf",
    "ground": "#ffffff",
    "accent": "#0b5fa5",
    "second": "#b3450b",
}
"""By the class that has them."""
Anchor = Literal["start", "middle", "end"]
FONT_SIZE = 12
_CHARACTER = 6.4
"""Width of a character in pixels, on average and rather too much."""


def element(name: str, *children: Markup | str, **attributes: object) -> Markup:
    """Returns an element; texts and values are escaped, and `_` in the name of an attribute is a hyphen."""
    said = "".join(
        f' {key.strip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(escape(child) for child in children)
    return Markup(f"<{name}{said}>{inner}</{name}>" if inner else f"<{name}{said}/>")


def _short(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def joined(parts: Iterable[Markup]) -> Markup:
    """Returns several elements as one."""
    return Markup("").join(parts)


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "ink", width: float = 1, **more: object) -> Markup:
    """Returns a line."""
    return element(
        "line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=COLOURS[colour], stroke_width=width, class_=f"s-{colour}", **more
    )


def path(points: Sequence[tuple[float, float]], colour: str = "ink", width: float = 1.5, **more: object) -> Markup:
    """Returns a line through points."""
    way = "M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in points)
    return element("path", d=way, fill="none", stroke=COLOURS[colour], stroke_width=width, class_=f"s-{colour}", **more)


def box(x: float, y: float, width: float, height: float, colour: str = "accent", **more: object) -> Markup:
    """Returns a filled box."""
    size = {"width": max(width, 0.0), "height": max(height, 0.0)}
    return element("rect", x=x, y=y, **size, fill=COLOURS[colour], class_=f"f-{colour}", **more)


def label(
    x: float,
    y: float,
    text: str,
    anchor: Anchor = "start",
    colour: str = "ink",
    size: int = FONT_SIZE,
    weight: str | None = None,
) -> Markup:
    """Returns a line of text whose baseline is at `y`."""
    place = {"x": x, "y": y, "text_anchor": None if anchor == "start" else anchor}
    return element(
        "text",
        one_line(text),
        **place,
        fill=COLOURS[colour],
        class_=f"f-{colour}",
        font_size=size,
        font_weight=weight,
    )


def cut(text: str, width: float) -> str:
    """Returns a name, with its middle left out where it would be wider than `width` pixels."""
    longest = max(4, int(width / _CHARACTER))
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def text_width(texts: Iterable[str], least: float = 0.0) -> float:
    """Returns about how wide the widest of some lines is, in pixels."""
    return max((len(text) * _CHARACTER for text in texts), default=0.0) + least


def marker(x: float, y: float, kind: str, colour: str = "accent", size: float = 5.0) -> Markup:
    """Returns a mark: `down`, `up`, `dot`, `ring` or `square`."""
    if kind in ("down", "up"):
        flip = 1 if kind == "down" else -1
        top, tip = y - flip * size * 0.8, y + flip * size
        points = f"{_short(x - size)},{_short(top)} {_short(x + size)},{_short(top)} {_short(x)},{_short(tip)}"
        return element("polygon", points=points, fill=COLOURS[colour], class_=f"f-{colour}")
    if kind == "square":
        return box(x - size * 0.8, y - size * 0.8, size * 1.6, size * 1.6, colour)
    if kind == "ring":
        ring = {"fill": COLOURS["ground"], "stroke": COLOURS[colour], "stroke_width": 1.8}
        return element("circle", cx=x, cy=y, r=size * 0.85, **ring, class_=f"f-ground s-{colour}")
    return element("circle", cx=x, cy=y, r=size * 0.85, fill=COLOURS[colour], class_=f"f-{colour}")


Kind = Literal["even", "log", "root"]
"""How numbers lie on a scale: evenly, by their logarithms, or by their square roots."""
_APART = 34.0
"""Pixels between two ticks, at least."""


@dataclass(frozen=True, slots=True)
class Scale:
    """From numbers to pixels."""

    low: float
    high: float
    start: float
    end: float
    kind: Kind = "even"

    def __call__(self, value: float) -> float:
        """Returns the place of a number; one beyond the ends lies there."""
        low, high, at = (self._even(v) for v in (self.low, self.high, min(max(value, self.low), self.high)))
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def _even(self, value: float) -> float:
        return math.log(value) if self.kind == "log" else math.sqrt(value) if self.kind == "root" else value

    def ticks(self, most: int = 6) -> list[float]:
        """Returns round numbers between the ends."""
        step = _round_step((self.high - self.low) / max(most - 1, 1))
        even = [n * step for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]
        if self.kind == "even":
            return even
        rounder = self._round_numbers()
        found: list[float] = []
        for tick in rounder if len(rounder) > 1 else even:
            if not found or abs(self(tick) - self(found[-1])) >= _APART:
                found.append(tick)
        return found

    def _round_numbers(self) -> list[float]:
        decades = range(math.floor(math.log10(self.low or self.high / 1000)), math.ceil(math.log10(self.high)) + 1)
        found = [n * 10.0**d for d in decades for n in (1, 2, 5)]
        return [v for v in ([0.0] if self.low == 0 else []) + found if self.low <= v <= self.high]


def _round_step(least: float) -> float:
    size = 10.0 ** math.floor(math.log10(least))
    return next(size * n for n in (1, 2, 5, 10) if size * n >= least * (1 - 1e-9))


def scale_of(
    values: Iterable[float | None], start: float, end: float, *, with_zero: bool = False, kind: Kind = "even"
) -> Scale:
    """Returns a scale that holds all of some values, with a little room; None and what has no place are passed over.

    One by square roots begins at 0, which negative estimates of a divergence lie on too.
    """
    known = [v for v in values if v is not None and math.isfinite(v) and (v > 0 or kind != "log")]
    if kind == "log":
        low, high = (min(known), max(known)) if known else (1.0, 10.0)
        return Scale(low / 1.25, high * 1.25, start, end, kind)
    if kind == "root":
        return Scale(0.0, max([*known, 0.0]) * 1.1 or 1.0, start, end, kind)
    known += [0.0] if with_zero or not known else []
    low, high = min(known), max(known)
    room = (high - low or abs(high) or 1.0) * 0.05
    low = low if with_zero and low == 0.0 else low - room
    return Scale(low, high if with_zero and high == 0.0 and low < 0.0 else high + room, start, end)


def tick_text(value: float) -> str:
    """Returns a number as axes show it."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        digits, _, exponent = f"{value:.0e}".partition("e")
        return f"{digits}e{int(exponent)}"
    return f"{value:,.4g}" if size < 10_000 else f"{value:,.0f}"


def x_axis(scale: Scale, top: float, bottom: float, title: str, most: int = 6) -> Iterator[Markup]:
    """Yields upright grid lines with their numbers below, and the name of what they measure."""
    for tick in scale.ticks(most):
        x = scale(tick)
        yield line(x, top, x, bottom, "grid")
        yield label(x, bottom + 15, tick_text(tick), "middle", "muted", 11)
    if title:
        yield label((scale.start + scale.end) / 2, bottom + 32, title, "middle", "muted")


def y_axis(
    scale: Scale, left: float, right: float, title: str = "", most: int = 5, *, with_numbers: bool = True
) -> Iterator[Markup]:
    """Yields level grid lines with their numbers at the left, and above them the name of what they measure."""
    for tick in scale.ticks(most):
        y = scale(tick)
        yield line(left, y, right, y, "grid")
        if with_numbers:
            yield label(left - 6, y + 4, tick_text(tick), "end", "muted", 11)
    if title:
        yield label(left - 6, min(scale.start, scale.end) - 9, title, "start", "muted")


def described(text: str) -> Markup:
    """Returns what a pointer that rests on an element is told."""
    return element("title", shortened(one_line(text), 300))


def short(value: float | None) -> str:
    """Returns a number in three digits or so."""
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else number(value)
