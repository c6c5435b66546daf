"""Texts with places in them, from files beside a recipe: prompts of scorers, rubrics of judges."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from alignbench.errors import ScorerError, UsageError
from alignbench.records import file_sha256
from alignbench.scorers.base import Place

_PLACE = re.compile(r"\{([a-z]+)\}")


def read_text_file(file: str | Path) -> str:
    """What a text file in UTF-8 holds; ValueError, with what was expected, where it cannot be read."""
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"a file beside the recipe or in the current folder ({file}: {error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError("a text file in UTF-8") from error


def read_template(file: str | Path, needs: Sequence[str], may: Sequence[str] = ()) -> str:
    """A text file in UTF-8 with places such as `{completion}` in it, without the line end at its end.

    Args:
        file: The file.
        needs: Places that are there once.
        may: Places that may be there once.

    Raises:
        ValueError: with what was expected.
    """
    text = read_text_file(file)
    found = _PLACE.findall(text)
    if any(found.count(place) != 1 for place in needs) or any(found.count(place) > 1 for place in may):
        places = " and ".join(f"{{{place}}}" for place in needs)
        more = f", and perhaps {' and '.join(f'{{{place}}}' for place in may)}" if may else ""
        raise ValueError(f"a text with {places} in it once{more} ({file})")
    return text.removesuffix("\n")


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with texts in its places; a text that looks like a place stays as it is."""
    return _PLACE.sub(lambda place: values.get(place.group(1), place.group()), template)


def shows(template: str, place: str) -> bool:
    """True where the template has the place."""
    return f"{{{place}}}" in template


def unchanged(file: str, sha256: str | None, read: Callable[[str], str], key: str) -> str:
    """What a file holds; ScorerError where that cannot be read, or is not what the recipe was read with."""
    try:
        text = read(file)
    except ValueError as error:
        raise ScorerError(f"{key}: got {file!r}, expected {error}") from error
    if sha256 not in (None, file_sha256(file)):
        raise ScorerError(f"{key}: {file}: the file has changed since the recipe was read; start the run again")
    return text


def require_window(place: Place, template: str) -> None:
    """UsageError where a judge's template shows the prompt and its `text` says that it does not, or the other way."""
    reads = shows(template, "prompt")
    if reads != (place.text != "completion"):
        wanted, has = ("prompt_and_completion", "has") if reads else ("completion", "has no")
        raise UsageError(f"{place.where}.text: got {place.text}, expected {wanted}: the template {has} {{prompt}}")
