"""A Python file that answers questions by its function `answer(question)`: a scripted judge, or another client."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from alignbench.errors import ScorerError
from alignbench.records import Cost, file_sha256
from alignbench.scorers.judging.chat_model import Answer, Question


class ScriptModel:
    """Implements `ChatModel`. Its tokens are words; probabilities are 1 for the word that the answer begins with."""

    def __init__(self, file: str | Path, where: str) -> None:
        """Runs the file; ScorerError where it cannot be run or has no function `answer`."""
        self.identity: Sequence[object] = ["script", file_sha256(file)]
        self.spent = Cost()
        module = ModuleType(f"_script_{str(self.identity[1])[:16]}")
        module.__file__ = str(file)
        try:
            exec(compile(Path(file).read_bytes(), str(file), "exec", dont_inherit=True), module.__dict__)
        except (Exception, SystemExit) as error:
            raise ScorerError(f"{where}: {file} cannot be run: {type(error).__name__}: {error}") from error
        self._answer: Any = getattr(module, "answer", None)
        if not callable(self._answer):
            raise ScorerError(f"{where}: {file} has no function `answer`, expected one from a question to a text")

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Asks one after the other."""
        return [self._asked(question) for question in questions]

    def _asked(self, question: Question) -> Answer:
        try:
            text = self._answer(question.text)
        except Exception as error:  # what a script raises has no common type
            return Answer(problem=f"the script raised {type(error).__name__}")
        if not isinstance(text, str):
            return Answer(problem="the script gives no text")
        n_read, n_written = len(question.text.split()), len(text.split())
        if not question.words:
            return Answer(text, None, n_read, n_written)
        first = (text.split() or [""])[0].strip(".,:;!")
        return Answer(None, {word: float(word.strip() == first) for word in question.words}, n_read, n_written)
