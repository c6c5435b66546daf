"""Texts of models: every character seen, none acting."""

import unicodedata

import pytest
from fixtures.reported import HOSTILE

from alignbench.report.text import one_line, shortened, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\tb\nc", "a\tb\nc"),
        ("a\r\nb\rc", "a\nb⟨U+000D⟩c"),
        ("a\x00b\x7f\x85", "a⟨U+0000⟩b⟨U+007F⟩⟨U+0085⟩"),
        ("\u202eabc\u202c\u2066\u2069\u200e", "⟨U+202E⟩abc⟨U+202C⟩⟨U+2066⟩⟨U+2069⟩⟨U+200E⟩"),
        ("\u2028\u2029\ufeff\u200b\u00ad", "⟨U+2028⟩⟨U+2029⟩⟨U+FEFF⟩⟨U+200B⟩⟨U+00AD⟩"),
        ("\ud800x\udfff", "⟨U+D800⟩x⟨U+DFFF⟩"),
        ("\ufffe\uffff\U0001fffe", "⟨U+FFFE⟩⟨U+FFFF⟩⟨U+1FFFE⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("\u05e9\u05dc \u0645\u0631 \u00e9 \u4e2d", "\u05e9\u05dc \u0645\u0631 \u00e9 \u4e2d"),
        ("👩\u200d👧 a\u00a0b \ue000", "👩\u200d👧 a\u00a0b \ue000"),
        ("<b>&amp;", "<b>&amp;"),
    ],
)
def test_visible(text, shown):
    assert visible(text) == shown


def test_no_character_of_any_kind_acts_on_its_surroundings():
    every = "".join(map(chr, (*range(0x20000), *range(0xE0000, 0xE0200), *range(0x10FFF0, 0x110000))))
    shown = visible(every)
    shown.encode("utf-8")  # no surrogate is left
    left = {character for character in shown if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert left == {"\t", "\n", "\u200c", "\u200d"}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_is_visible_once_stays_as_it_is(text):
    assert visible(visible(text)) == visible(text)


def test_shortened():
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdef", 4) == "abcd … (2 more characters)"
    assert shortened("x" * 100_000) == "x" * 2000 + " … (98,000 more characters)"


def test_one_line():
    assert one_line(" a\n b\t\x00") == "a b ⟨U+0000⟩"
