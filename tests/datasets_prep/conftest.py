from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from datasets_prep.prompt_lengths import TextTokenizer


class WordTokenizer:
    """One token per word, with the white space before it; decoding is exact."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def encode(self, text: str) -> list[int]:
        ids = []
        for word in re.findall(r"\s*\S+", text):
            if word not in self.words:
                self.words.append(word)
            ids.append(self.words.index(word))
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.words[i] for i in token_ids)


class ByteTokenizer:
    """One token per byte of UTF-8: a cut can fall inside a character."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode(errors="replace")


@pytest.fixture
def words() -> TextTokenizer:
    return WordTokenizer()


@pytest.fixture
def utf8_bytes() -> TextTokenizer:
    return ByteTokenizer()


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[[str, Sequence[Mapping[str, object]]], str]:
    """Writes rows to a .jsonl or .jsonl.gz file and returns its path as a recipe would name it."""

    def write(name: str, rows: Sequence[Mapping[str, object]]) -> str:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return str(tmp_path / name)

    return write
