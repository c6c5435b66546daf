"""Texts that a model wrote, made fit to be shown: every character is seen, and none acts on its surroundings."""

from __future__ import annotations

import json
import unicodedata

LONGEST = 2000
"""Characters of a text that are shown."""
_JOINERS = "\u200c\u200d"
"""Format characters that words of some languages, and emoji, are not right without."""


def visible(text: str) -> str:
    """Returns a text in which what cannot be seen is written out, as `⟨U+202E⟩`.

    That is every control character but tab and line feed, marks of direction and other format characters, lone
    surrogates, separators of lines and paragraphs, and what is no character at all. A line feed after a carriage
    return stays alone.
    """
    if text.isprintable():
        return text
    return text.replace("\r\n", "\n").translate(_SHOWN)


class _Shown(dict[int, str]):
    """How each character is shown, found when it is first met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        is_shown = (
            character.isprintable() or character in f"\n\t{_JOINERS}" or unicodedata.category(character) in ("Zs", "Co")
        )
        self[code] = character if is_shown and code & 0xFFFE != 0xFFFE else f"⟨U+{code:04X}⟩"
        return self[code]


_SHOWN = _Shown()


def shortened(text: str, longest: int = LONGEST) -> str:
    """Returns the beginning of a text, and how much of it is not there."""
    left = len(text) - longest
    return text if left <= 0 else f"{text[:longest]} … ({left:,} more characters)"


def inert_json(value: object) -> str:
    """Returns JSON in which nothing can end the element of a page that holds it, nor begin a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def one_line(text: str) -> str:
    """Returns a text as one line, everything in it visible."""
    return visible(" ".join(text.split()))
