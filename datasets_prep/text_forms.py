"""When two texts are the same: the one place that decides it for splits, duplicates and leaks.

Two texts that a reader takes for the same one are the same text here, whatever their code points: composed or
decomposed accents, full width, ligatures, upper and lower case, any white space, and characters that show nothing (zero
width, soft hyphen, byte order mark, marks of direction, variation selectors, control characters). That is NFKC after
full case folding, as the Unicode standard compares identifiers, with the invisible left out and runs of white space as
one space. Letters of different scripts that look alike stay different.

`normalised_text` also takes typographic quotes and dashes for the plain ones. `split_text`, by which a text is given to
a split, does not: these are in a fifth of all scraped texts, and their splits stay what they were before quotes were
looked at.
"""

from __future__ import annotations

import re
import unicodedata

TEXT_FORM = 2
"""Number of this definition; 1 was case folding and white space alone. ASCII texts are the same under both."""

# Default_Ignorable_Code_Point of the Unicode standard, interlinear annotations, and controls that are no white space.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
_BRAILLE_BLANK = "\u2800"
_PLAIN = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2043", "-")
)


def normalised_text(text: str) -> str:
    """Returns what two texts share exactly where they are the same text."""
    return split_text(text).translate(_PLAIN)


def split_text(text: str) -> str:
    """Returns the same, but for typographic quotes and dashes, which stay."""
    if not text.isascii():
        # Invisible characters go first: between a letter and its accent they would keep the two apart.
        text = unicodedata.normalize("NFKD", _INVISIBLE.sub("", text).replace(_BRAILLE_BLANK, " "))
        text = unicodedata.normalize("NFKD", text.casefold())
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text.casefold()))
    return " ".join(text.split())
