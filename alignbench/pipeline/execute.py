"""The spine: recipes in, run directories out.

A recipe names a method and everything that must be equal across methods. Raw prompts become prepared data; the method
trains on the training split and returns a policy or a reward model; the one evaluator measures it on held-out prompts;
the store writes a run directory. Runs that a recipe builds on are run first, and what they cost is charged to it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.errors import AlignbenchError, UsageError
from alignbench.methods.base import RunContext, TrainData
from alignbench.pipeline.build import Components
from alignbench.pipeline.curve import AlongTraining, hashes_of_sources
from alignbench.pipeline.diagnosis import diagnose_run
from alignbench.pipeline.direction import check_direction
from alignbench.pipeline.evaluate import evaluate_policy, evaluate_trained_reward_model, saved_reward_model
from alignbench.pipeline.inputs import inputs_of
from alignbench.pipeline.pairs import Pairs, heldout_pairs, training_pairs
from alignbench.pipeline.plan import Key, Outcome, Planned, folder, plan, run_path
from alignbench.pipeline.preflight import check_before_start
from alignbench.pipeline.prompts import heldout_prompts, known_texts, neutral_texts, prepared_prompts
from alignbench.pipeline.training_data import build_training_data
from alignbench.records import Cost, EvalReport, HeldOut, Scorer
from alignbench.results import layout, reader
from alignbench.results.schema import TuningFile, Upstream
from alignbench.results.writer import RunDirectory
from alignbench.runtime import distributed
from alignbench.runtime.clock import Stopwatch, measured
from alignbench.runtime.device import choose_device, describe_environment, quiet_libraries, set_threads
from alignbench.runtime.ledger import Ledger
from alignbench.runtime.profiling import Profile
from alignbench.runtime.randomness import seed_everything
from alignbench.scorers.base import sources_of

if TYPE_CHECKING:
    import torch

    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.loading import LoadedRecipe
    from alignbench.recipe.recipe import Recipe

logger = logging.getLogger(__name__)


def run(
    recipes: Sequence[LoadedRecipe],
    results: Path,
    *,
    force: bool = False,
    profile: bool = False,
    tuning: Mapping[str, TuningFile] | None = None,
    fresh: Collection[Key] = (),
) -> list[Outcome]:
    """Runs recipes one after the other, going on past a failed one; what builds on a failed run fails too.

    Args:
        recipes: What to run; what they build on comes first.
        results: The results directory.
        force: Run again what is complete, and replace runs of other recipes under the same names.
        profile: Trace a training step of every run, and print the share of each stage.
        tuning: By recipe name, the sweep that selected its settings, to be charged.
        fresh: Runs that are not to be forced, because the same command ran them before.

    Of several processes all call this, and the first one writes. There the first failed run is the last: the others
    might wait for ever for a process that has gone on.
    """
    distributed.join()
    tuning = tuning or {}
    outcomes: dict[Key, Outcome] = {}
    for planned in plan(recipes):
        failed = [other.key for other in planned.upstream.values() if outcomes[other.key].state == "failed"]
        if failed:
            error = AlignbenchError(f"not run: {failed[0][0]} (seed {failed[0][1]}), which it builds on, failed")
            outcomes[planned.key] = Outcome(*planned.key, "failed", error=error)
            continue
        try:
            again, of_sweep = force and planned.key not in fresh, tuning.get(planned.recipe.name)
            outcomes[planned.key] = _run_one(planned, results, of_sweep, force=again, profile=profile)
        except AlignbenchError as error:
            logger.debug("run failed", exc_info=True)
            partial = layout.partial_path(folder(planned.recipe, results), *planned.key)
            kept = partial if partial.exists() and not isinstance(error, UsageError) else None
            outcomes[planned.key] = Outcome(*planned.key, "failed", kept, error)
            if distributed.world_size() > 1:
                break
        except Exception as error:  # a defect, ours or a library's: shown in full, and the other runs go on
            if distributed.world_size() > 1:
                raise
            logger.exception("%s, seed %d: unexpected error", *planned.key)
            unexpected = AlignbenchError(f"unexpected {type(error).__name__}: {error}")
            outcomes[planned.key] = Outcome(*planned.key, "failed", error=unexpected)
    return list(outcomes.values())


def _run_one(planned: Planned, results: Path, tuning: TuningFile | None, *, force: bool, profile: bool) -> Outcome:
    """Prepare, train, evaluate, store."""
    recipe = planned.recipe
    _check_processes(recipe)
    quiet_libraries()
    set_threads(recipe.hardware.threads)
    device = choose_device(recipe.hardware.device)
    if distributed.rank() > 0:
        return _assist(planned, device)
    with distributed.awaited():
        stored = {role: reader.read_run(run_path(other.recipe, results)) for role, other in planned.upstream.items()}
        artifacts = {role: run.artifact for role, run in stored.items()}
        built_on = [
            Upstream(recipe=run.status.recipe, seed=run.status.seed, run_hash=run.status.run_hash, role=role)
            for role, run in stored.items()
        ]
        built_on += tuning.upstream if tuning else ()
        directory = RunDirectory.begin(
            folder(recipe, results),
            recipe=recipe.name,
            method=recipe.method_name,
            seed=recipe.seed,
            run_hash=planned.run_hash,
            resolved_recipe=recipe.to_yaml(),
            environment=describe_environment(device),
            kind=recipe.method.produces,
            upstream=built_on,
            inputs=inputs_of(recipe, artifacts),
            force=force,
        )
    with directory:
        with distributed.awaited():
            pieces = dict(tuning.pieces) if tuning else {}
            for run in stored.values():
                pieces |= run.pieces
            directory.charge(pieces, built_on, tuning)
        if directory.action == "skip":
            if profile:
                logger.warning("%s, seed %d: complete, so nothing is profiled; --force runs it again", *planned.key)
            return distributed.from_first(Outcome(*planned.key, "kept", directory.path))
        logger.info("%s, seed %d: %s", recipe.name, recipe.seed, directory.action)
        parts = Components(recipe, artifacts, device)
        if directory.action == "evaluate":
            _evaluate_again(recipe, parts, directory, device)
            return distributed.from_first(Outcome(*planned.key, "done", directory.path))
        trace = Profile(directory.path / layout.PROFILE, device) if profile else None
        _execute(recipe, parts, directory, list(stored.values()), device, trace)
    return distributed.from_first(Outcome(*planned.key, "done", directory.path))


def _check_processes(recipe: Recipe) -> None:
    """UsageError where the method would train once in each of several processes."""
    n = distributed.world_size()
    if n > 1 and not getattr(recipe.method, "takes_several_processes", False):
        raise UsageError(
            f"{recipe.name}: {recipe.method_name} trains in one process, and {n} were started; run this recipe without "
            "torchrun or accelerate launch"
        )


def _assist(planned: Planned, device: torch.device) -> Outcome:
    """What the processes behind the first do for a run: prepare and train along with it, and write nothing."""
    begun: Any = distributed.from_first(None)
    if isinstance(begun, Outcome):
        return begun
    recipe = planned.recipe
    artifacts, checkpoints = begun
    seed_everything(recipe.seed + distributed.rank())  # for rewards that draw from the global generators
    parts, machine = Components(recipe, artifacts, device), Cost()
    with measured(machine, device):
        with distributed.first_process_first():
            policy = parts.start_policy()
            data = prepared_prompts(recipe, policy)
            reward = parts.training_reward() if recipe.method.needs_reward else None
        context = _context(parts, policy, reward, checkpoints=checkpoints, log=lambda _step, _metrics: None)
        recipe.method.train(TrainData(data.train, data.validation), context)
    distributed.gather(machine.peak_memory_gib)
    return distributed.from_first(None)  # type: ignore[return-value]


def _execute(
    recipe: Recipe,
    parts: Components,
    directory: RunDirectory,
    upstream: Sequence[reader.StoredRun],
    device: torch.device,
    trace: Profile | None,
) -> None:
    seed_everything(recipe.seed)
    ledger, earlier = Ledger(directory.log_event), directory.status
    # With those of earlier attempts that were cut off; of the device for one process, as all have equal shares.
    n_processes = distributed.world_size()
    machine = Cost(wall_seconds=earlier.cost.wall_seconds, device_seconds=earlier.cost.device_seconds / n_processes)
    evaluation = dataclasses.replace(earlier.evaluation_cost)

    # 1. Prepare: prompts in three splits, and what scores.
    distributed.from_first((parts.artifacts, directory.checkpoints))
    with measured(machine, device), distributed.first_process_first():
        policy = parts.start_policy()
        data = prepared_prompts(recipe, policy)
        heldout = heldout_prompts(recipe, policy, data)
        reward = parts.training_reward() if recipe.method.needs_reward else None
        neutral = neutral_texts(recipe, data) if recipe.method.produces == "policy" else ()
    directory.record_inputs(inputs_of(recipe, parts.artifacts))
    directory.write_prompts(*known_texts(recipe, data, heldout.prompts), data.statistics)
    labeller = parts.labeller() if recipe.draws_for_training else None
    # Before training, so that a wrong label does not come to light after it.
    scorers = parts.toxicity_scorers() if recipe.method.produces == "policy" else {}
    directory.record_inputs(inputs_of(recipe, parts.artifacts))  # whatever was fetched is here by now
    with measured(machine, device):
        check_before_start(parts, policy, reward or labeller, scorers, data, heldout.prompts)

    # 2. Measure on validation prompts, and draw completions only where reward and judges agree about what is harmful.
    along = AlongTraining(parts, directory, data.validation, scorers, reward or labeller, machine, evaluation)
    check_direction(parts, policy, reward or labeller, scorers, data, along.first(policy), evaluation)
    built = build_training_data(recipe, policy, labeller, data, heldout.prompts)
    directory.charge(built.pieces)

    # 3. Train, and measure on validation prompts along and after.
    with measured(machine, device), trace or nullcontext():
        log = _logger(directory, ledger, machine, device)
        records = {"checkpoints": directory.checkpoints, "log_completions": directory.log_completions}
        context = _context(parts, policy, reward, log=log, evaluate_at=along.at, ledger=ledger, **records)
        if trace:
            context.log = trace.between_steps(context.log)
            context.evaluate_at = trace.between_steps(context.evaluate_at)
        trained = recipe.method.train(built.data, context)
        trained.save(directory.artifact)
    machine.peak_memory_gib = max(distributed.gather(machine.peak_memory_gib))
    if trace:
        logger.info("%s, seed %d: %s", recipe.name, recipe.seed, trace)
    along.last(trained)

    # 4. Evaluate on held-out prompts.
    if recipe.method.produces == "policy":
        with measured(evaluation, device):
            measures = evaluate_policy(recipe, parts, trained, heldout.prompts, neutral, scorers, device, evaluation)
    else:
        assert built.pairs is not None
        assert labeller is not None
        measures, heldout = _evaluate_reward_model(parts, trained, built.pairs, policy, labeller, heldout, evaluation)

    # 5. Store.
    sources = {name: sources_of(scorer) for name, scorer in scorers.items()}
    directory.write_evaluation(*measures, sources, prompt_rows=heldout.rows)
    machine.device_seconds *= n_processes
    ledger.book(None, "machine", machine)
    ledger.book(None, "evaluation", evaluation, "evaluation_cost")
    trained_on = hashes_of_sources(reward, labeller, upstream)
    diagnosis, why_none = diagnose_run(directory.path, trained_on, kind=recipe.method.produces)
    if along.is_cut_off:
        diagnosis, why_none = None, "evaluations along training were switched off before it ended"
    directory.complete(
        cost=ledger.cost,
        evaluation_cost=ledger.evaluation_cost,
        train_reward=_last_tenth(directory.logged("objective/reward")),
        trained_on=trained_on,
        reward_hacking=diagnosis,
        reward_hacking_reason=why_none,
    )


def _evaluate_again(recipe: Recipe, parts: Components, directory: RunDirectory, device: torch.device) -> None:
    """Evaluates a complete run, of whose evaluation files are gone, from its saved artifact."""
    if recipe.policy.quantization != "none":
        raise UsageError(
            f"{directory.path} lost files of its evaluation, and an adapter on a quantized model cannot be loaded as "
            "it was trained; run it again with --force"
        )
    seed_everything(recipe.seed)
    evaluation = Cost()
    with measured(evaluation, device):
        policy = parts.start_policy()
        data = prepared_prompts(recipe, policy)
        heldout = heldout_prompts(recipe, policy, data)
    directory.record_inputs(inputs_of(recipe, parts.artifacts))
    scorers = parts.toxicity_scorers() if recipe.method.produces == "policy" else {}
    if recipe.method.produces == "policy":
        trained = Components(recipe, {"policy": directory.artifact}, device).start_policy()
        with measured(evaluation, device):
            neutral = neutral_texts(recipe, data)
            measures = evaluate_policy(recipe, parts, trained, heldout.prompts, neutral, scorers, device, evaluation)
    else:
        model = saved_reward_model(recipe, directory.artifact, device)
        labeller = parts.labeller()
        pairs = training_pairs(recipe, policy, labeller, data.train)
        measures, heldout = _evaluate_reward_model(parts, model, pairs, policy, labeller, heldout, evaluation)
    sources = {name: sources_of(scorer) for name, scorer in scorers.items()}
    directory.write_evaluation(*measures, sources, prompt_rows=heldout.rows)
    directory.complete_again(evaluation)


def _evaluate_reward_model(
    parts: Components,
    trained: Any,
    pairs: Pairs,
    policy: LanguageModel,
    labeller: Scorer,
    heldout: HeldOut,
    cost: Cost,
) -> tuple[tuple[EvalReport, dict[str, Any]], HeldOut]:
    """Returns report and comparability, and the prompts that they are about."""
    other, heldout = heldout_pairs(parts.recipe, policy, labeller, heldout)
    cost.charge(dataclasses.replace(other.cost, training_completions=0))  # with its seconds
    with measured(cost, parts.device):
        report = evaluate_trained_reward_model(parts, trained, pairs, other, policy, heldout.prompts, cost)
    return report, heldout


def _context(parts: Components, policy: LanguageModel, reward: Scorer | None, **records: Any) -> RunContext:
    from alignbench.models.adapters import Lora

    recipe = parts.recipe
    lora = recipe.policy.lora
    return RunContext(
        seed=recipe.seed,
        budget_completions=recipe.budget.completions,
        policy=policy,
        load_reward_model=parts.reward_model_start,
        lora=Lora(**lora.model_dump()) if lora else None,
        reward=reward,
        reward_text=recipe.reward.text if recipe.reward else "completion",
        **records,
    )


def _logger(
    directory: RunDirectory, ledger: Ledger, machine: Cost, device: torch.device
) -> Callable[[int, Mapping[str, float]], None]:
    """Logs a step, and the seconds spent so far, so that a killed run is charged for them when it is resumed."""
    watch = Stopwatch(device)  # less what is set aside, which `machine` knows

    def log(step: int, metrics: Mapping[str, float]) -> None:
        directory.log_step(step, metrics)
        wall = machine.wall_seconds + watch.wall_seconds
        held = (machine.device_seconds + watch.device_seconds) * distributed.world_size()
        directory.record_cost(dataclasses.replace(ledger.cost, wall_seconds=wall, device_seconds=held))

    return log


def _last_tenth(rewards: Sequence[float]) -> float | None:
    """Mean of the last tenth of the steps, at least one; None where nothing was logged."""
    last = rewards[-max(1, len(rewards) // 10) :]
    return sum(last) / len(last) if last else None
