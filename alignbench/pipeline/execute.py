"""The spine: recipes in, run directories out.

A recipe names a method and everything that must be equal across methods. Raw prompts become prepared data; the method
trains on the training split and returns a policy or a reward model; the one evaluator measures it on held-out prompts;
the store writes a run directory. Runs that a recipe builds on are run first, and what they cost is charged to it.

Of several processes each goes through the same: all prepare and train, and the first one, which has the run's
directory, measures and writes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignbench.errors import AlignbenchError, ScorerError, UsageError
from alignbench.models.fast.layers import choice
from alignbench.models.loading import shared_classifiers
from alignbench.pipeline.build import Parts, make_parts, make_yardsticks
from alignbench.pipeline.curve import AlongTraining, hashes_of_sources
from alignbench.pipeline.diagnosis import diagnose_run, last_tenth
from alignbench.pipeline.direction import check_direction
from alignbench.pipeline.evaluate import evaluate_again, evaluate_trained
from alignbench.pipeline.executors.base import Ended, Executor, Order
from alignbench.pipeline.executors.here import Here
from alignbench.pipeline.inputs import inputs_of
from alignbench.pipeline.job import Job, begin
from alignbench.pipeline.plan import Key, Outcome, Planned, folder, plan
from alignbench.pipeline.preflight import check_before_start
from alignbench.pipeline.prompts import known_texts
from alignbench.pipeline.revisions import compare_with_drafts
from alignbench.pipeline.schedule import Schedule
from alignbench.pipeline.tracked import tracked
from alignbench.pipeline.train import Measuring, train
from alignbench.pipeline.training_data import build_training_data
from alignbench.records import Cost, Policy
from alignbench.results import layout
from alignbench.results.files import write_rows
from alignbench.results.lock import RunHeldError
from alignbench.results.recognition import has_checkpoint
from alignbench.results.schema import TuningFile
from alignbench.results.writer import RunDirectory
from alignbench.runtime import distributed, progress
from alignbench.runtime.clock import measured
from alignbench.runtime.device import choose_device, quiet_libraries, set_threads
from alignbench.runtime.randomness import seed_everything

if TYPE_CHECKING:
    from alignbench.methods.base import Trained
    from alignbench.recipe.loading import LoadedRecipe
    from alignbench.recipe.recipe import Recipe

logger = logging.getLogger(__name__)

Engine = Callable[[Order], Executor]
"""Makes an executor of an order."""


def run(
    recipes: Sequence[LoadedRecipe],
    results: Path,
    *,
    force: bool = False,
    profile: bool = False,
    tuning: Mapping[str, TuningFile] | None = None,
    fresh: Collection[Key] = (),
    engine: Engine | None = None,
    retries: int = 1,
) -> list[Outcome]:
    """Runs recipes, going on past a failed one; what builds on a failed run fails too.

    Args:
        recipes: What to run; what they build on comes first.
        results: The results directory.
        force: Run again what is complete, and replace runs of other recipes under the same names.
        profile: Trace a training step of every run, and print the share of each stage.
        tuning: By recipe name, the sweep that selected its settings, to be charged.
        fresh: Runs that are not to be forced, because the same command ran them before.
        engine: Makes what carries them out; None: this process, one after the other.
        retries: With an engine, how often a run is tried again that died, or failed for a reason nobody has foreseen.

    Of several processes all call this, and the first one writes. There the first failed run is the last: the others
    might wait for ever for a process that has gone on.
    """
    distributed.join()
    order = Order({one.key: one for one in plan(recipes)}, results, force, profile, tuning or {}, fresh)
    if engine is not None:
        with engine(order) as executor:
            return Schedule(order, executor, retries=retries, longest_first=True).carry_out()

    def carry_out(key: Key) -> Ended:
        of_sweep = order.tuning.get(key[0])
        return ended(order.planned[key], results, of_sweep, force=order.forces(key), profile=profile)

    return Schedule(order, Here(carry_out)).carry_out()


def ended(planned: Planned, results: Path, tuning: TuningFile | None, *, force: bool, profile: bool) -> Ended:
    """Carries out a run whose upstream runs are complete; returns what became of it, errors included."""
    try:
        return _run_one(planned, results, tuning, force=force, profile=profile)
    except RunHeldError as error:
        return Ended("failed" if distributed.world_size() > 1 else "held", error=error)
    except AlignbenchError as error:
        logger.debug("run failed", exc_info=True)
        partial = layout.partial_path(folder(planned.recipe, results), *planned.key)
        kept = partial if has_checkpoint(partial) and not isinstance(error, UsageError) else None
        return Ended("failed", kept, error, may_retry=isinstance(error, ScorerError))
    except Exception as error:  # a defect, ours or a library's: shown in full, and the other runs go on
        if distributed.world_size() > 1:
            raise
        logger.exception("%s, seed %d: unexpected error", *planned.key)
        return Ended("failed", None, AlignbenchError(f"unexpected {type(error).__name__}: {error}"), may_retry=True)


def _run_one(planned: Planned, results: Path, tuning: TuningFile | None, *, force: bool, profile: bool) -> Ended:
    """Finds out what there is to do for a run, and does it."""
    recipe = planned.recipe
    _check_processes(recipe)
    recipe.check_budget()
    for caution in recipe.cautions():
        logger.warning("%s: %s", recipe.name, caution)
    quiet_libraries()
    set_threads(recipe.hardware.threads)
    choice.begin()
    job = begin(planned, results, tuning, choose_device(recipe.hardware.device), force=force)
    with job.recorder as recorder:
        job.charge_upstream(tuning)
        if recorder.action == "skip":
            if profile:
                logger.warning("%s, seed %d: complete, so nothing is profiled; --force runs it again", *planned.key)
            return Ended("kept", recorder.path)
        progress.run_begins(
            f"{planned.recipe.name}, seed {planned.recipe.seed}",
            job.directory.path / layout.PROGRESS_FILE if job.directory is not None else None,
        )
        logger.info("%s, seed %d: %s", *planned.key, recorder.action)
        with tracked(job, results):
            if recorder.action == "evaluate":
                with distributed.agreed():
                    if job.directory is not None:
                        evaluate_again(job, job.directory)
                        progress.run_ends()
            else:
                _train_and_evaluate(job, profile=profile)
    return Ended("done", distributed.from_first(recorder.path))


def _check_processes(recipe: Recipe) -> None:
    """UsageError where the method would train once in each of several processes."""
    n = distributed.world_size()
    if n > 1 and not recipe.method.facts.several_processes:
        raise UsageError(
            f"{recipe.name}: {recipe.method_name} trains in one process, and {n} were started; run this recipe without "
            "torchrun or accelerate launch"
        )


def _train_and_evaluate(job: Job, *, profile: bool) -> None:
    """Prepare, train, evaluate, store."""
    seed_everything(job.recipe.seed + distributed.rank())  # apart, for rewards that draw from the global generators
    with shared_classifiers():
        with measured(job.machine, job.device), distributed.first_process_first():
            parts = make_parts(job.recipe, job.artifacts, job.device)
        with distributed.agreed():
            measuring = _before_training(job, job.directory, parts) if job.directory is not None else None
    trained = train(job, parts, measuring, profile=profile)
    with distributed.agreed():
        if measuring is not None:
            _evaluate_and_store(job, parts, measuring, trained)


def _before_training(job: Job, directory: RunDirectory, parts: Parts) -> Measuring:
    """Checks all that the run will need; completions are drawn only where reward and judges agree about harm."""
    recipe = job.recipe
    with measured(job.evaluation, job.device):
        yardsticks = make_yardsticks(parts)
    directory.record_inputs(inputs_of(recipe, job.artifacts))  # whatever was fetched is here by now
    with measured(job.machine, job.device):
        check_before_start(parts, yardsticks)
    along = AlongTraining(parts, yardsticks, directory, job.machine, job.evaluation)
    check_direction(parts, yardsticks, along.first(parts.start or parts.policy), job.evaluation)
    built = build_training_data(recipe, parts.policy, parts.labeller, parts.data, yardsticks.heldout.prompts)
    seen = known_texts(recipe, parts.data, yardsticks.heldout.prompts, built.prompts)
    directory.write_prompts(*seen, parts.data.statistics)
    directory.charge(built.pieces)
    told = dict(built.told)
    if "revisions" in told:
        with measured(job.evaluation, job.device):
            said = {"judges": compare_with_drafts(told["revisions"][1:], yardsticks.judges)}
        told["revisions"] = [said, *told["revisions"]]
    for name, rows in told.items():
        write_rows(directory.path / f"{name}.jsonl", rows)
    return Measuring(directory, yardsticks, along, built)


def _evaluate_and_store(job: Job, parts: Parts, measuring: Measuring, trained: Trained) -> None:
    """Evaluates on held-out prompts, and completes the run."""
    directory, along = measuring.directory, measuring.along
    if isinstance(trained, Policy):
        along.last(trained, job.ledger.cost.training_completions + measuring.built.data.drawn_completions)
    evaluate_trained(job, directory, parts, measuring.yardsticks, measuring.built.pairs, trained)
    job.machine.device_seconds *= distributed.world_size()
    job.ledger.book(None, "machine", job.machine)
    job.ledger.book(None, "evaluation", job.evaluation, "evaluation_cost")
    if along.is_first_kept:
        job.ledger.book(None, "kept evaluation", Cost(), "evaluation_cost")
    trained_on = hashes_of_sources(parts.reward, parts.labeller, list(job.upstream.values()))
    diagnosis, why_none = diagnose_run(directory.path, trained_on, kind=directory.status.kind)
    if along.is_cut_off:
        diagnosis, why_none = None, "evaluations along training were switched off before it ended"
    progress.run_ends()
    directory.complete(
        cost=job.ledger.cost,
        evaluation_cost=job.ledger.evaluation_cost,
        train_reward=last_tenth(directory.logged("objective/reward")),
        trained_on=trained_on,
        reward_hacking=diagnosis,
        reward_hacking_reason=why_none,
    )
