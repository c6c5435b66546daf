"""Files that a block of a recipe names, a function's or a word list: checked, and known by their hashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field, ValidationInfo

from alignbench.identity import PartOfIdentity
from alignbench.records import file_sha256
from alignbench.scorers.lexicon import read_lexicon
from alignbench.scorers.python_function import check_function, function_sha256

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=100)]
Text = Annotated[str, Field(min_length=1)]


def _name_in_file(function: str) -> str:
    return function.rpartition(":")[2]


FunctionFile = Annotated[
    Text | None, PartOfIdentity(_name_in_file, "where the file lies; `function_sha256` says what is in it")
]


def checked_function(value: str | None) -> str | None:
    """The place of a function, where its file binds it; ValueError with what is expected."""
    if value is not None:
        check_function(value)
    return value


def checked_lexicon(value: str | None) -> str | None:
    """The place of a word list that can be read; ValueError with what is expected."""
    if value is not None:
        read_lexicon(value)
    return value


def hash_of_function(value: str | None, info: ValidationInfo) -> str | None:
    """The hash of a function's file; ValueError where another one is asked for."""
    return _hash_of(info.data.get("function"), function_sha256, value)


def hash_of_lexicon(value: str | None, info: ValidationInfo) -> str | None:
    """The hash of a word list; ValueError where another one is asked for."""
    return _hash_of(info.data.get("lexicon"), file_sha256, value)


def _hash_of(file: str | None, sha256: Callable[[str], str], value: str | None) -> str | None:
    """The hash of a file; None where there is none, or it was refused. ValueError where another one is asked for."""
    if file is None:
        return None
    found = sha256(file)
    if value not in (None, found):
        raise ValueError(f"{found}, that of {file} now; null takes the file as it is")
    return found
