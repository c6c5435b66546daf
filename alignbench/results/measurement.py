"""Which measurement of a finished run an evaluation is: a run can be measured again, and keeps what was measured."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class StoredMeasurement(BaseModel):
    """A later measurement of a finished run."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    number: int
    """From 2 on, over all protocols of the run; 1 is that of the run itself."""
    by: Literal["evaluate", "rescore"]
    changed: tuple[str, ...]
    """What is otherwise than in the run: `key=value`, or the scorers and metrics that were added."""
    evaluation: dict[str, Any]
    """The block of the recipe that it was measured by."""
    alignbench: str
    """Version of the package that measured."""
    finished: str
    """UTC."""
