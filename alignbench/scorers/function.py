"""A user's Python function as a scorer: `rewards.py:politeness`, given prompts and completions.

The file is the whole identity of the function: what it imports or reads besides is not seen.
"""

from __future__ import annotations

import hashlib
import symtable
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar

from pydantic import Field

from alignbench.errors import ScorerError, did_you_mean
from alignbench.identity import PartOfIdentity
from alignbench.records import file_sha256, fingerprint
from alignbench.scorers.base import BesideRecipe, Place, ScorerKind, SourceSettings, Text, checked, hash_of

_SHOWN = "file.py:function, such as rewards.py:politeness"


def check_function(function: str) -> None:
    """Finds out whether a file of Python binds a name, without running it.

    Args:
        function: `file.py:name`, the file as seen from the current folder.

    Raises:
        ValueError: with what was expected.
    """
    file, name = _parts(function)
    if not file.endswith(".py") or not name.isidentifier():
        raise ValueError(_SHOWN)
    try:
        table = symtable.symtable(_read(file).decode("utf-8-sig"), file, "exec")
    except SyntaxError as error:
        raise ValueError(f"a file that Python can read (line {error.lineno}: {error.msg})") from error
    except ValueError as error:  # not UTF-8, or with null bytes
        raise ValueError("a file of Python in UTF-8") from error
    except OSError as error:
        places = "beside the recipe or in the current folder"
        raise ValueError(f"a file {places} ({file}: {error.strerror})") from error
    bound = [symbol for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()]
    if name not in [symbol.get_name() for symbol in bound]:
        functions = [symbol.get_name() for symbol in bound if symbol.is_namespace()]
        known = (
            f"one of the functions of {file}: {', '.join(functions)}" if functions else f"a function, {file} has none"
        )
        raise ValueError(known + did_you_mean(name, functions))


def function_sha256(function: str) -> str:
    """SHA-256 of the file of `file.py:name`."""
    return file_sha256(_parts(function)[0])


class PythonFunction:
    """Scores with `function(prompts, completions)`. Implements `records.Scorer`."""

    may_draw = True
    """Nobody knows whether it draws random numbers."""

    def __init__(
        self, function: str, *, where: str, name: str, sha256: str | None = None, sees_prompts: bool = True
    ) -> None:
        """Runs the file and takes the function from it.

        Args:
            function: `file.py:name`, the file as seen from the current folder.
            where: The block of the recipe named in errors.
            name: How the scorer is called in tables.
            sha256: What the file must hash to; None: anything.
            sees_prompts: False gives the function an empty text for every prompt.

        Raises:
            ScorerError: The file cannot be run, has changed, or has no such function.
        """
        self.name = name
        self._where = f"{where}.function: {function}"
        self._file, wanted = _parts(function)
        try:
            source = _read(self._file)
        except OSError as error:
            raise ScorerError(
                f"{self._where}: got no file that can be read ({error.strerror}), expected {_SHOWN}"
            ) from error
        found = hashlib.sha256(source).hexdigest()
        if sha256 not in (None, found):
            raise ScorerError(f"{self._where}: the file has changed since the recipe was read; start the run again")
        self._function: Any = getattr(self._run(source, found), wanted, None)
        if not callable(self._function):
            raise ScorerError(f"{self._where}: got {_kind(self._function)}, expected a function")
        self._sees_prompts = sees_prompts
        self.fingerprint = fingerprint([found, wanted] if sees_prompts else [found, wanted, "completion"])
        self.sources = (found,)
        """What the score comes from: the hash of the file."""

    def _run(self, source: bytes, sha256: str) -> ModuleType:
        module = ModuleType(f"_reward_{sha256[:16]}")
        module.__file__ = str(Path(self._file).absolute())
        sys.modules[module.__name__] = module  # dataclasses look their module up there
        try:
            exec(compile(source, self._file, "exec", dont_inherit=True), module.__dict__)
        except (Exception, SystemExit) as error:
            raise ScorerError(f"{self._where}: the file cannot be run: {self._said(error)}") from error
        return module

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float | None]:
        """Scores every completion; numbers may come as a list, a numpy array or a torch tensor."""
        try:
            given = list(prompts) if self._sees_prompts else [""] * len(prompts)
            result = self._function(given, list(completions))
        except (Exception, SystemExit) as error:
            raise ScorerError(f"{self._where}: the function raised {self._said(error)}") from error
        expected = f"a list of {len(completions)} numbers or None, one for each completion"
        values = result.tolist() if hasattr(result, "tolist") else result
        if not isinstance(values, list | tuple):
            raise ScorerError(f"{self._where}: got {_kind(result)}, expected {expected}")
        if len(values) != len(completions):
            raise ScorerError(f"{self._where}: got {len(values)} values, expected {expected}")
        return [self._number(value, text) for value, text in zip(values, completions, strict=True)]

    def _number(self, value: Any, text: str) -> float | None:
        value = value.tolist() if hasattr(value, "tolist") else value  # of numpy and torch
        if value is None:
            return None
        if not isinstance(value, int | float):
            raise ScorerError(f"{self._where}: got {_kind(value)} for {text[:80]!r}, expected a number or None")
        if not abs(value) <= sys.float_info.max:  # NaN, infinity, or a whole number that is too large
            raise ScorerError(
                f"{self._where}: got {value} for {text[:80]!r}, expected a finite number, or None for no score"
            )
        return float(value)

    def _said(self, error: BaseException) -> str:
        """What the user's code raised, and its own last line on the way there."""
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self._file]
        return f"{what} ({self._file}:{own[-1].lineno}: {own[-1].line})" if own else what


def _parts(function: str) -> tuple[str, str]:
    file, _, name = function.rpartition(":")
    return file, name


def _read(file: str) -> bytes:
    return Path(file).read_bytes()


def _kind(value: object) -> str:
    return "nothing" if value is None else f"{' '.join(repr(value).split()):.60} ({type(value).__name__})"


def _name_in_file(function: str) -> str:
    return _parts(function)[1]


_Hash = Annotated[Text | None, hash_of("function", function_sha256)]  # in the class the name is that of the setting


class FunctionSettings(SourceSettings):
    """A Python function, as a reward or as a judge."""

    takes: ClassVar[str] = "a Python function"

    function: Annotated[
        Text | None,
        PartOfIdentity(_name_in_file, "where the file lies; `function_sha256` says what is in it"),
        BesideRecipe(separator=":"),
        checked(check_function),
    ] = None
    """`file.py:name` of a function of prompts and completions, beside the recipe or in the current folder."""
    function_sha256: _Hash = Field(default=None, validate_default=True)
    """SHA-256 of that file; null: filled in. With any other file the recipe is refused."""

    def load(self, place: Place) -> PythonFunction:
        """Runs the file."""
        assert self.function is not None
        return PythonFunction(
            self.function,
            where=place.where,
            name=place.name,
            sha256=self.function_sha256,
            sees_prompts=place.text == "prompt_and_completion",
        )


plugin = ScorerKind(reward=FunctionSettings, judge=FunctionSettings)
