"""A run under way: what is to be done, where it is written down, and what it has cost so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from alignbench.pipeline.inputs import inputs_of
from alignbench.pipeline.plan import Planned, folder, run_path
from alignbench.records import Cost
from alignbench.results import layout, reader
from alignbench.results.schema import TuningFile, Upstream
from alignbench.results.writer import RunDirectory
from alignbench.runtime import distributed
from alignbench.runtime.device import describe_environment
from alignbench.runtime.ledger import Ledger

if TYPE_CHECKING:
    import torch

    from alignbench.recipe.recipe import Recipe
    from alignbench.results.recognition import Action
    from alignbench.results.schema import RunStatus


@dataclass(frozen=True, slots=True)
class Silent:
    """The run as the processes after the first have it: what they say of it is written down by nobody."""

    action: Action
    path: Path
    status: RunStatus

    @property
    def checkpoints(self) -> Path:
        """Where the first process keeps them: all resume from there."""
        return self.path / layout.CHECKPOINTS

    def log_step(self, *_: object) -> None:
        """Writes nothing."""

    log_completions = log_event = record_cost = log_step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the run to the first process."""


Recorder = RunDirectory | Silent


class Job:
    """One run, in one of its processes."""

    def __init__(
        self, recipe: Recipe, upstream: Mapping[str, reader.StoredRun], device: torch.device, recorder: Recorder
    ) -> None:
        self.recipe, self.upstream, self.device, self.recorder = recipe, upstream, device, recorder
        self.artifacts = {role: run.artifact for role, run in upstream.items()}
        self.directory = recorder if isinstance(recorder, RunDirectory) else None
        """None in the processes after the first."""
        self.ledger = Ledger(recorder.log_event)
        # With those of earlier attempts that were cut off; of the device for one process, as all have equal shares.
        earlier = recorder.status.cost
        device_seconds = earlier.device_seconds / distributed.world_size()
        self.machine = Cost(wall_seconds=earlier.wall_seconds, device_seconds=device_seconds)
        """Seconds and memory of training."""
        self.evaluation = dataclasses.replace(recorder.status.evaluation_cost)

    def charge_upstream(self, tuning: TuningFile | None) -> None:
        """Charges the run with what it builds on, and with the sweep that selected its settings."""
        pieces = dict(tuning.pieces) if tuning else {}
        for run in self.upstream.values():
            pieces |= run.pieces
        with distributed.agreed():
            if self.directory is not None:
                self.directory.charge(pieces, _built_on(self.upstream, tuning), tuning)


def begin(planned: Planned, results: Path, tuning: TuningFile | None, device: torch.device, *, force: bool) -> Job:
    """Begins a run: the first process takes hold of its directory, those after it are told of it."""
    recipe, directory = planned.recipe, None
    stored = {role: reader.read_run(run_path(other.recipe, results)) for role, other in planned.upstream.items()}
    with distributed.awaited():
        if distributed.rank() == 0:
            directory = RunDirectory.begin(
                folder(recipe, results),
                recipe=recipe.name,
                method=recipe.method_name,
                seed=recipe.seed,
                run_hash=planned.run_hash,
                resolved_recipe=recipe.to_yaml(),
                settings=recipe.resolved(),
                environment=describe_environment(device),
                kind="policy" if recipe.method.facts.gives_policy else "reward_model",
                upstream=_built_on(stored, tuning),
                inputs=inputs_of(recipe, {role: run.artifact for role, run in stored.items()}),
                force=force,
            )
    told = distributed.from_first(directory and (directory.action, directory.path, directory.status))
    return Job(recipe, stored, device, directory or Silent(*told))  # type: ignore[misc]


def _built_on(stored: Mapping[str, reader.StoredRun], tuning: TuningFile | None) -> list[Upstream]:
    runs = [
        Upstream(recipe=run.status.recipe, seed=run.status.seed, run_hash=run.status.run_hash, role=role)
        for role, run in stored.items()
    ]
    return [*runs, *(tuning.upstream if tuning else ())]
