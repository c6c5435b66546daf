"""Scales, ticks and elements, by hand."""

import math
from itertools import pairwise

import pytest
from markupsafe import Markup

from alignbench.report.pictures.svg import Scale, cut, element, label, scale_of, tick_text


def test_an_even_scale():
    scale = Scale(0.0, 4.0, 100.0, 300.0)
    assert [scale(v) for v in (0, 1, 4)] == [100, 150, 300]
    assert [scale(v) for v in (-3, 9)] == [100, 300]  # beyond the ends
    assert scale.ticks(5) == [0, 1, 2, 3, 4]
    assert Scale(0.0, 1.0, 300.0, 100.0)(0.25) == 250  # upwards


def test_a_scale_by_logarithms():
    scale = Scale(1.0, 100.0, 0.0, 200.0, "log")
    assert [scale(v) for v in (1, 10, 100)] == pytest.approx([0, 100, 200])
    assert scale.ticks() == [1, 5, 20, 50]  # those between would stand less than 34 pixels apart
    places = list(map(scale, scale.ticks()))
    assert min(b - a for a, b in pairwise(places)) >= 30


def test_a_scale_by_logarithms_of_numbers_that_are_near_each_other():
    """None of 1, 2, 5 and their tens lies between, so even steps mark it."""
    assert Scale(2.3, 4.1, 0.0, 200.0, "log").ticks() == pytest.approx([2.5, 3, 3.5, 4])


def test_a_scale_by_square_roots():
    scale = Scale(0.0, 25.0, 0.0, 100.0, "root")
    assert [scale(v) for v in (0, 1, 4, 25)] == pytest.approx([0, 20, 40, 100])
    assert scale.ticks()[0] == 0


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(-0.43, 0.65, [-0.4, -0.2, 0, 0.2, 0.4, 0.6]), (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (3e-7, 9e-7, None)],
)
def test_round_ticks(low, high, ticks):
    found = Scale(low, high, 0, 500).ticks(7)
    assert ticks is None or found == pytest.approx(ticks)
    assert all(low <= tick <= high * 1.0001 for tick in found)
    assert 2 <= len(found) <= 8


@pytest.mark.parametrize("kind", ["even", "log", "root"])
@pytest.mark.parametrize("values", [[], [None], [0.0], [5.0], [5.0, 5.0], [math.nan, 1.0], [-1.0, 2.0], [1e-9, 1e9]])
def test_every_list_of_numbers_has_a_scale(values, kind):
    scale = scale_of(values, 0.0, 100.0, kind=kind)
    places = [scale(v) for v in values if v is not None and math.isfinite(v) and (v > 0 or kind != "log")]
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)
    assert all(math.isfinite(tick) for tick in scale.ticks())


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.25, "0.25"), (-1.5, "-1.5"), (12_000, "12,000"), (3e9, "3e9"), (2e-5, "2e-5")]
)
def test_tick_text(value, text):
    assert tick_text(value) == text


def test_everything_in_an_element_is_escaped():
    made = element("text", '<b>&"', class_='a"b', stroke_width=1.0)
    assert made == '<text class="a&#34;b" stroke-width="1">&lt;b&gt;&amp;&#34;</text>'
    assert element("g", Markup("<a/>")) == "<g><a/></g>"
    assert element("use", x=None, href="#a") == '<use href="#a"/>'
    assert "⟨U+0000⟩ ⟨U+202E⟩" in label(0, 0, "\x00 \u202e")


def test_a_long_name_keeps_its_ends():
    assert cut("short", 100) == "short"
    name = cut("a_recipe_with_a_very_long_name_indeed_seed", 100)
    assert len(name) == 15
    assert (name[:4], name[-4:]) == ("a_re", "seed")
