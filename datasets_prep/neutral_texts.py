"""Texts that have nothing to do with a recipe's training, for measuring what a policy has forgotten.

They come from a source that gives texts, such as `wikitext`, or from a file of one's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignbench.errors import DataError, LeakError, did_you_mean
from alignbench.records import Prompt
from datasets_prep import local_files, sources
from datasets_prep.columns import without_surrogates
from datasets_prep.nested_text import unpacked
from datasets_prep.rows import Row, faults_error, place, shown
from datasets_prep.settings import ColumnMapping
from datasets_prep.sources.base import Request
from datasets_prep.splits import stable_hash
from datasets_prep.text_forms import normalised_text

SUFFIXES = (".txt", *local_files.SUFFIXES)
MAX_TEXTS = 200
"""More texts than this are not read; which ones are is decided by a hash of each."""
_KEY = "evaluation.neutral"
_COLUMN = "text"
_TELLING_WORDS = 8
"""A prompt of so many words that begins a text was cut from it; a shorter one may do so by chance."""


def check_source(source: str) -> None:
    """ValueError, saying what is expected, where this is neither a named source nor the name of a file."""
    if source == "embedded" or source.endswith(SUFFIXES) or sources.find(source, "texts") is not None:
        return
    names = sources.names("texts")
    hint = did_you_mean(source, [*names, "embedded"])
    raise ValueError(f"{', '.join(names)} or embedded{hint}, or a file whose name ends in {', '.join(SUFFIXES)}")


def read_texts(source: str) -> tuple[str, ...]:
    """Returns the texts of a source by name or of a file, each once, at most `MAX_TEXTS` of them, in hash order.

    A .txt file has a text a line, every other kind the column `text`. White space around a text goes, and so do empty
    texts and WikiText's headings (` = Title = `).

    Raises:
        DataError: The source cannot be read, has no such column, or holds no text.
    """
    origin, known = f"{_KEY}: {source}", sources.find(source, "texts")
    if known is not None:
        lines = _cells(known.read(Request(_KEY)), known.columns.prompt or _COLUMN, origin)
    elif source.endswith(".txt"):
        lines = _lines(Path(source).expanduser(), origin)
    else:
        lines = _cells(local_files.read_rows(Path(source).expanduser(), _KEY), _COLUMN, origin)
    texts: dict[str, str] = {}
    for line in lines:
        text = without_surrogates(line).strip()
        if text and not (text.startswith("=") and text.endswith("=")):
            texts.setdefault(normalised_text(text), text)
    if not texts:
        raise DataError(f"{origin}: holds no text, expected one at least.")
    return tuple(sorted(texts.values(), key=lambda text: stable_hash(0, "neutral", text))[:MAX_TEXTS])


def prompts_of(texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Prompt]:
    """Returns the prompts that one of the texts is, or was cut from the beginning of."""
    known = [normalised_text(text) for text in texts]
    whole = set(known)

    def is_known(prompt: Prompt) -> bool:
        text = normalised_text(prompt.text)
        return text in whole or (len(text.split()) >= _TELLING_WORDS and any(one.startswith(text) for one in known))

    return [prompt for prompt in prompts if is_known(prompt)]


def check_unseen(texts: Sequence[str], prompts: Sequence[Prompt]) -> None:
    """LeakError where a text is one of the prompts of training, or one of them was cut from its beginning."""
    found = prompts_of(texts, prompts)
    if found:
        text = next(one for one in texts if normalised_text(one).startswith(normalised_text(found[0].text)))
        raise LeakError(
            f"{_KEY}: data.prompts holds the text {text[:80]!r}, or its beginning; a policy that was trained on it "
            "shows nothing about what it has forgotten. Give texts from elsewhere, or set data.on_leak to drop: "
            "training loses the prompt."
        )


def _lines(path: Path, origin: str) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{origin}: there is no such file{did_you_mean(path.name, siblings) or '.'}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{origin}: cannot be read as UTF-8 text ({error}).") from error


def _cells(rows: Sequence[Row], column: str, origin: str) -> list[str]:
    rows, _ = unpacked(rows, ColumnMapping(prompt=column), origin)
    faults = []
    for index, row in enumerate(rows):
        if not isinstance(row.get(column), str):
            columns = ", ".join(map(str, row)) or "none at all"
            got = f"{type(row[column]).__name__} ({shown(row[column])})" if column in row else f"the columns {columns}"
            faults.append(f"{place(rows, index)}: expected text in the column {column!r}, got {got}")
    if faults:
        raise faults_error(origin, faults)
    return [row[column] for row in rows]
