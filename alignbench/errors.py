"""Every error a user can meet.

AlignbenchError                exit code 1: something failed
├── UsageError                 exit code 2: the request cannot be right
│   ├── RecipeError            problems in a recipe or suite, all of them together
│   └── RunExistsError         the results directory holds another run under this name
├── InputsError                files and folders that recipes name, all problems together
├── DataError                  raw data that cannot be used
│   └── LeakError              training and held-out prompts meet
├── ModelError                 a model or tokenizer that cannot be loaded or used
├── ScorerError                a scorer that fails too often, or gives numbers that are not finite
├── TrainingError              training that must stop (loss not finite, step-0 identity broken)
└── ResultsError               results that cannot be read or compared
    ├── ComparabilityError     runs that do not belong in one table
    └── NothingComparedError   exit code 3: the table has a single recipe
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar


class AlignbenchError(Exception):
    """An error with a message made for the user; the command line prints it without a traceback."""

    exit_code: ClassVar[int] = 1


class UsageError(AlignbenchError):
    """The request itself is wrong."""

    exit_code: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a recipe."""

    where: str
    """The file and the key, e.g. `ppo.yaml: method.kl_coef`."""
    got: str
    """What is there."""
    expected: str
    """What would be right, with the nearest known name where there is one."""

    def __str__(self) -> str:
        return f"{self.where}: got {self.got}, expected {self.expected}"


class RecipeError(UsageError):
    """A recipe or suite that cannot be run; carries every problem found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[RecipeError], tuple[Sequence[Problem]]]:
        return type(self), (self.problems,)  # an exception is else made anew of its message


class InputsError(AlignbenchError):
    """Files and folders that recipes name and that cannot be used; carries every problem found."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[InputsError], tuple[Sequence[str]]]:
        return type(self), (self.problems,)


class RunExistsError(UsageError):
    """A results directory already holds a run with another recipe under this name."""


class DataError(AlignbenchError):
    """Raw data that cannot be read or does not hold what the recipe asks for."""


class LeakError(DataError):
    """A prompt is both in training and in held-out data."""


class ModelError(AlignbenchError):
    """A model, tokenizer or label that cannot be loaded or used."""


class ScorerError(AlignbenchError):
    """A scorer that cannot score, scores too little, or gives values that are not finite."""


class TrainingError(AlignbenchError):
    """Training that had to stop; the last good checkpoint is kept."""


class ResultsError(AlignbenchError):
    """Results that cannot be read."""


class ComparabilityError(ResultsError):
    """Runs whose evaluations differ and therefore do not belong in one table."""


class NothingComparedError(ResultsError):
    """Fewer than two recipes are left to compare; what there is has been shown."""

    exit_code: ClassVar[int] = 3


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Returns `, did you mean 'x'?` for the nearest known name, or an empty string."""
    nearest = get_close_matches(name, list(known), n=1)
    return f", did you mean {nearest[0]!r}?" if nearest else ""
