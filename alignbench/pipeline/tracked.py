"""A run that is told to the trackers of its recipe while it is under way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alignbench.tracking.trackers import TrackedRun, Trackers

if TYPE_CHECKING:
    from alignbench.pipeline.job import Job

FOLDER = "tracking"
"""Of the results directory: where clients keep what they keep on this machine."""


@contextmanager
def tracked(job: Job, results: Path) -> Iterator[None]:
    """Within the block the first process tells the trackers what it writes down of the run."""
    recipe, directory = job.recipe, job.directory
    if directory is None or not recipe.tracking:
        yield
        return
    run = TrackedRun(recipe.name, recipe.method_name, recipe.seed, recipe.resolved(), results / FOLDER)
    trackers = Trackers(recipe.tracking, run)

    def told(step: int | None, values: Mapping[str, object]) -> None:
        if step is None:
            trackers.log_last(values)
        else:
            trackers.log(step, values)

    directory.told = told
    try:
        yield
    finally:
        trackers.finish()
