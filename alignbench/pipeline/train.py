"""Training of one run: what the method is given, and what is written down along it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignbench.methods.base import RunContext, StepDone, TrainData, require_policy
from alignbench.models.fast.layers import choice
from alignbench.pipeline.scorers import kept_reward
from alignbench.records import Cost, Policy
from alignbench.results import layout
from alignbench.results.files import write_rows
from alignbench.runtime import distributed, progress
from alignbench.runtime.clock import Stopwatch, measured
from alignbench.runtime.profiling import Profile

if TYPE_CHECKING:
    from alignbench.methods.base import Trained
    from alignbench.pipeline.build import Parts, Yardsticks
    from alignbench.pipeline.curve import AlongTraining
    from alignbench.pipeline.job import Job
    from alignbench.pipeline.training_data import BuiltTrainData
    from alignbench.results.writer import RunDirectory

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measuring:
    """What the first process alone has: what it measures with and on, and what it found before training."""

    directory: RunDirectory
    yardsticks: Yardsticks
    along: AlongTraining
    built: BuiltTrainData


def train(job: Job, parts: Parts, measuring: Measuring | None, *, profile: bool) -> Trained:
    """Trains in every process, measured on validation prompts along it, and saves what was trained."""
    trace = Profile(job.recorder.path / layout.PROFILE, job.device) if profile and measuring is not None else None
    with measured(job.machine, job.device), trace or nullcontext():
        data = distributed.from_first(measuring.built.data if measuring else TrainData((), ()))  # drawn there alone
        context = _context(job, parts, measuring)
        if trace:
            context.step_done = trace.between_steps(context.step_done)
        progress.checkpoint_at(None)
        trained = job.recipe.method.train(data, context)
        if job.recipe.method.facts.gives_policy:
            require_policy(trained, job.recipe.method_name)
        if measuring is not None:
            trained.save(measuring.directory.artifact)
    job.machine.peak_memory_gib = max(distributed.gather(job.machine.peak_memory_gib))
    if trace:
        logger.info("%s, seed %d: %s", job.recipe.name, job.recipe.seed, trace)
        logger.info("%s, seed %d: how matrices were multiplied\n%s", job.recipe.name, job.recipe.seed, choice.report())
    return trained


def _context(job: Job, parts: Parts, measuring: Measuring | None) -> RunContext:
    from alignbench.models.adapters import Lora

    recipe, recorder = job.recipe, job.recorder
    lora = recipe.policy.lora
    return RunContext(
        seed=recipe.seed,
        budget_completions=recipe.budget.completions,
        policy=parts.policy,
        load_reward_model=parts.reward_model_start,
        load_upstream=parts.load_upstream,
        lora=Lora(**lora.model_dump()) if lora else None,
        reward=parts.reward,
        reward_text=recipe.reward.text if recipe.reward else "completion",
        checkpoints=recorder.checkpoints,
        step_done=_step_done(job, measuring.along if measuring else None),
        start=parts.start,
        kept_reward=kept_reward(recipe, job.artifacts) if parts.reward else (),
        log_completions=recorder.log_completions,
        keep_rows=_keep_rows(measuring),
        ledger=job.ledger,
    )


def _keep_rows(measuring: Measuring | None) -> Callable[[str, Sequence[Mapping[str, object]]], None]:
    """Writes rows into the run's directory; none has a prompt that is held out."""

    def keep(name: str, rows: Sequence[Mapping[str, object]]) -> None:
        if measuring is not None:
            held = {prompt.text for prompt in measuring.yardsticks.heldout.prompts}
            write_rows(measuring.directory.path / f"{name}.jsonl", (r for r in rows if r.get("prompt") not in held))

    return keep


def _step_done(job: Job, along: AlongTraining | None) -> StepDone:
    """Books and logs a step, with the seconds that a resumed run is charged for, and measures where that is due."""
    watch, machine = Stopwatch(job.device), job.machine  # less what is set aside, which `machine` knows

    def step_done(
        step: int, completions: int, metrics: Mapping[str, float], cost: Mapping[str, Cost], policy: Policy | None
    ) -> None:
        for event, amounts in cost.items():
            job.ledger.book(step, event, amounts)
        job.recorder.log_step(step, metrics)
        if job.directory is not None:
            job.directory.told(step, {"budget/completions": completions})
        progress.show(reward=metrics.get("objective/reward"), KL=metrics.get("objective/kl"))
        wall = machine.wall_seconds + watch.wall_seconds
        held = (machine.device_seconds + watch.device_seconds) * distributed.world_size()
        job.recorder.record_cost(dataclasses.replace(job.ledger.cost, wall_seconds=wall, device_seconds=held))
        if along is not None and policy is not None:
            along.at(step, completions, policy)

    return step_done
