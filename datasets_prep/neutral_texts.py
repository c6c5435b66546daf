"""Texts that have nothing to do with a recipe's training, for measuring what a policy has forgotten.

`wikitext` is the test split of WikiText-2 (Merity et al. 2016, arXiv:1609.07843), a paragraph of an encyclopaedia a
row, read from its parquet file on the hub. A file of one's own serves too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignbench.errors import DataError, LeakError, did_you_mean
from alignbench.records import Prompt
from datasets_prep import hub, local_files
from datasets_prep.columns import without_surrogates
from datasets_prep.splits import stable_hash
from datasets_prep.text_forms import normalised_text

WIKITEXT = "wikitext"
HUB_ID = "Salesforce/wikitext"
HUB_FILE = "wikitext-2-raw-v1/test-00000-of-00001.parquet"
NAMES = (WIKITEXT, "embedded")
SUFFIXES = (".txt", *local_files.SUFFIXES)
MAX_TEXTS = 200
"""More texts than this are not read; which ones are is decided by a hash of each."""
_KEY = "evaluation.neutral"
_COLUMN = "text"
_TELLING_WORDS = 8
"""A prompt of so many words that begins a text was cut from it; a shorter one may do so by chance."""


def check_source(source: str) -> None:
    """ValueError, saying what is expected, where this is neither a named source nor the name of a file."""
    if source not in NAMES and not source.endswith(SUFFIXES):
        hint = did_you_mean(source, NAMES)
        raise ValueError(f"{' or '.join(NAMES)}{hint}, or a file whose name ends in {', '.join(SUFFIXES)}")


def read_texts(source: str) -> tuple[str, ...]:
    """Returns the texts of `wikitext` or of a file, each once, at most `MAX_TEXTS` of them, in hash order.

    A .txt file has a text a line, every other kind the column `text`. White space around a text goes, and so do empty
    texts and WikiText's headings (` = Title = `).

    Raises:
        DataError: The source cannot be read, has no such column, or holds no text.
    """
    path = hub.file_path(HUB_ID, HUB_FILE, None, _KEY) if source == WIKITEXT else Path(source).expanduser()
    origin = f"{_KEY}: {source}"
    lines = _lines(path, origin) if path.name.endswith(".txt") else _cells(path, origin)
    texts: dict[str, str] = {}
    for line in lines:
        text = without_surrogates(line).strip()
        if text and not (text.startswith("=") and text.endswith("=")):
            texts.setdefault(normalised_text(text), text)
    if not texts:
        raise DataError(f"{origin}: holds no text, expected one at least.")
    return tuple(sorted(texts.values(), key=lambda text: stable_hash(0, "neutral", text))[:MAX_TEXTS])


def check_unseen(texts: Sequence[str], prompts: Sequence[Prompt]) -> None:
    """LeakError where a text is one of the prompts of training, or one of them was cut from its beginning."""
    seen = {normalised_text(prompt.text) for prompt in prompts}
    beginnings = tuple(text for text in seen if len(text.split()) >= _TELLING_WORDS)
    for text in texts:
        normalised = normalised_text(text)
        if normalised in seen or normalised.startswith(beginnings):
            raise LeakError(
                f"{_KEY}: data.prompts holds the text {text[:80]!r}, or its beginning; a policy that was trained on "
                "it shows nothing about what it has forgotten. Give texts from elsewhere."
            )


def _lines(path: Path, origin: str) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{origin}: there is no such file{did_you_mean(path.name, siblings) or '.'}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{origin}: cannot be read as UTF-8 text ({error}).") from error


def _cells(path: Path, origin: str) -> list[str]:
    cells = []
    for number, row in enumerate(local_files.read_rows(path, _KEY), start=1):
        if not isinstance(row.get(_COLUMN), str):
            columns = ", ".join(map(str, row)) or "none at all"
            raise DataError(
                f"{origin}, row {number}: expected text in the column {_COLUMN!r}, got "
                f"{type(row[_COLUMN]).__name__ if _COLUMN in row else f'the columns {columns}'}."
            )
        cells.append(row[_COLUMN])
    return cells
