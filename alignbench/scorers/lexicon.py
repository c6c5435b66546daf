"""A list of words as a scorer: whether a text holds one of them, or what share of its words they are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from alignbench.errors import ScorerError
from alignbench.identity import NotIdentity
from alignbench.records import TextWindow, file_sha256, fingerprint
from alignbench.scorers.base import BesideRecipe, Place, ScorerKind, SourceSettings, Text, checked, hash_of, read_text

LexiconScore = Literal["any", "share"]

_WORD = re.compile(r"\w+")


def read_lexicon(file: str) -> tuple[str, ...]:
    """The entries of a word list, folded, without repeats, in the order of the file.

    Args:
        file: A text file in UTF-8 with one word or phrase a line; empty lines and lines that begin with # are skipped.

    Raises:
        ValueError: with what was expected.
    """
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"a file beside the recipe or in the current folder ({file}: {error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError("a file of words in UTF-8, one a line") from error
    entries: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        entry = " ".join(_folded(line).split())
        if not entry or entry.startswith("#"):
            continue
        if _WORD.search(entry) is None:
            raise ValueError(f"a word with a letter or a digit on every line ({file}, line {number}: {line.strip()!r})")
        entries[entry] = None
    if not entries:
        raise ValueError(f"a file with at least one word, {file} has none")
    return tuple(entries)


class LexiconScorer:
    """Scores a text by the words of a list that it holds. Implements `records.Scorer`.

    Upper and lower case are equal. An entry counts where no letter, digit or underscore touches it: `ass` is found in
    "an ass!", not in "class". White space inside an entry stands for any white space.
    """

    def __init__(
        self,
        file: str,
        *,
        where: str,
        name: str,
        score: LexiconScore = "any",
        text: TextWindow = "completion",
        joint: str = "",
        sha256: str | None = None,
    ) -> None:
        """Reads the list.

        Args:
            file: The word list, as `read_lexicon` takes it.
            where: The block of the recipe named in errors.
            name: How the scorer is called in tables.
            score: `any`: 1 where the text holds an entry, else 0. `share`: the share of the text's words (runs of
                letters, digits and underscores) that belong to an entry; 0 for a text without words.
            text: What is read: a list of words has no chat template.
            joint: What comes between a prompt and a completion that does not go on with it.
            sha256: What the file must hash to; None: anything.

        Raises:
            ScorerError: The file cannot be read or has changed.
        """
        try:
            entries = read_lexicon(file)
        except ValueError as error:
            raise ScorerError(f"{where}.lexicon: got {file!r}, expected {error}") from error
        found = file_sha256(file)
        if sha256 not in (None, found):
            raise ScorerError(
                f"{where}.lexicon: {file}: the file has changed since the recipe was read; start the run again"
            )
        self.name, self.text, self._joint, self._score = name, text, joint, score
        # The longest first, so that of two entries with one beginning the whole phrase counts.
        longest_first = sorted(entries, key=len, reverse=True)
        patterns = (r"\s+".join(re.escape(word) for word in entry.split()) for entry in longest_first)
        self._entry = re.compile(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)")
        joints = [joint] if joint and text == "prompt_and_completion" else []
        self.fingerprint = fingerprint(["lexicon", found, score, text, *joints])
        self.sources = (found,)
        """What the score comes from: the hash of the list."""

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float | None]:
        """Scores every completion between 0 and 1."""
        pairs = zip(prompts, completions, strict=True)
        return [self._score_text(read_text(*pair, self.text, self._joint)) for pair in pairs]

    def _score_text(self, text: str) -> float:
        folded = _folded(text)
        if self._score == "any":
            return float(self._entry.search(folded) is not None)
        n_words = len(_WORD.findall(folded))
        n_listed = sum(len(_WORD.findall(match.group())) for match in self._entry.finditer(folded))
        return n_listed / n_words if n_words else 0.0


def _folded(text: str) -> str:
    """The text without case, an accent and its letter in one character."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


class LexiconJudge(SourceSettings):
    """A list of words that judges."""

    takes: ClassVar[str] = "a file of words"
    knows_context: ClassVar[bool] = False

    lexicon: Annotated[
        Text | None,
        NotIdentity("where the list lies; `lexicon_sha256` says what is in it"),
        BesideRecipe(),
        checked(read_lexicon),
    ] = None
    """A file with a word or phrase a line, beside the recipe or in the current folder."""
    lexicon_sha256: Annotated[Text | None, hash_of("lexicon")] = Field(default=None, validate_default=True)
    """SHA-256 of that file; null: filled in. With any other file the recipe is refused."""
    lexicon_score: LexiconScore = "any"
    """`any`: 1 where the text holds an entry, else 0; `share`: the share of the text's words that are listed."""

    def load(self, place: Place) -> LexiconScorer:
        """Reads the list."""
        assert self.lexicon is not None
        return LexiconScorer(
            self.lexicon,
            where=place.where,
            name=place.name,
            score=self.lexicon_score,
            text=place.text,
            joint=place.joint,
            sha256=self.lexicon_sha256,
        )


plugin = ScorerKind(judge=LexiconJudge)
