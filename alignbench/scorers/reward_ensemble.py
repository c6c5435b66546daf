"""Several reward models as one: the lowest of their scores, or the mean.

A policy finds where one model is wrong; members that were trained on different pairs are wrong in different places
(Coste et al. 2023, arXiv:2310.02743).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from alignbench.errors import ModelError
from alignbench.records import Scorer, fingerprint
from alignbench.scorers.weighted_sum import Term, WeightedSum

Combine = Literal["lowest", "mean"]
ENSEMBLE_FILE = "reward_ensemble.json"
"""Says how many members lie in the folders beside it, and how their scores are combined."""


class SavedScorer(Scorer, Protocol):
    """A scorer that can be written down."""

    def save(self, directory: Path) -> None:
        """Writes it."""
        ...


class RewardEnsemble(WeightedSum):
    """The lowest or the mean score of some reward models; None where any has none. Implements `records.Scorer`."""

    def __init__(self, members: Sequence[SavedScorer], combine: Combine, *, name: str) -> None:
        super().__init__([Term(f"member{i}", one, 1 / len(members)) for i, one in enumerate(members)], name=name)
        self.members, self.combine = tuple(members), combine

    @property
    def fingerprint(self) -> str:
        """Hash of the members' fingerprints and of how they are combined."""
        return fingerprint([super().fingerprint, self.combine])

    def combined(self, scores: Sequence[float | None]) -> float | None:
        """The lowest score of one completion, or the mean."""
        known = [score for score in scores if score is not None]
        if self.combine == "mean" or len(known) < len(scores):
            return super().combined(scores)
        return min(known)

    def save(self, directory: Path) -> None:
        """Writes every member into a folder of its own."""
        directory.mkdir(parents=True, exist_ok=True)
        for i, one in enumerate(self.members):
            one.save(directory / f"member{i}")
        record = {"members": len(self.members), "combine": self.combine}
        (directory / ENSEMBLE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def members_in(directory: Path, where: str) -> tuple[list[Path], Combine] | None:
    """Returns the folders of the members of a saved ensemble, and how they are combined; None where there is none.

    Raises:
        ModelError: The record cannot be read, or a member is gone.
    """
    file = directory / ENSEMBLE_FILE
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        places, combine = [directory / f"member{i}" for i in range(record["members"])], record["combine"]
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{where}: {file} cannot be read as the record of an ensemble: {error}") from error
    if missing := [place.name for place in places if not (place / "config.json").is_file()]:
        raise ModelError(f"{where}: {directory} lacks {', '.join(missing)} of its ensemble; train its recipe again")
    return places, combine
