"""Finished runs measured again: with other prompts, another protocol, other judges or batches; nothing is trained.

Each measurement is written beside the earlier ones, and the latest is the one that tables show.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from alignbench._version import __version__
from alignbench.errors import LeakError, ModelError, UsageError
from alignbench.pipeline.build import make_parts, make_yardsticks, saved_policy
from alignbench.pipeline.evaluate import evaluate_policy
from alignbench.pipeline.stored import recipe_of_run
from alignbench.recipe.layers import Layer, merge
from alignbench.recipe.recipe import Recipe, recipe_of
from alignbench.recipe.yaml import parse_set
from alignbench.records import Cost
from alignbench.results import layout
from alignbench.results.measurement import StoredMeasurement
from alignbench.results.reader import StoredRun, find_runs
from alignbench.results.writer import RunDirectory
from alignbench.runtime.clock import measured
from alignbench.runtime.device import choose_device, quiet_libraries, set_threads
from alignbench.runtime.randomness import seed_everything
from alignbench.scorers.base import sources_of
from datasets_prep.splits import whole_text_hash

logger = logging.getLogger(__name__)

_MAY_CHANGE = ("evaluation", "hardware")


def runs_to_measure(paths: Sequence[Path]) -> list[StoredRun]:
    """Returns the finished runs of policies below some paths; says which reward models are left as they are.

    ResultsError where there is no run, UsageError where all are of reward models.
    """
    runs, _ = find_runs(list(paths))
    policies = [run for run in runs if run.status.kind == "policy"]
    if not policies:
        raise UsageError(f"{', '.join(map(str, paths))}: got runs of reward models alone, expected one of a policy")
    if left := [run.label for run in runs if run.status.kind != "policy"]:
        logger.warning("left as they are, being reward models, which are measured on pairs: %s", ", ".join(left))
    return policies


def changed_recipe(run: StoredRun, sets: Sequence[str]) -> Recipe:
    """Returns the recipe that a run is to be measured by.

    RecipeError, or UsageError for a key that decides more than how it is measured.
    """
    values = merge([Layer("--set", parse_set(one), Path()) for one in sets])
    if strange := [key for key in values if key not in _MAY_CHANGE]:
        raise UsageError(
            f"--set {strange[0]}: a finished run can be measured otherwise, by keys of evaluation and hardware; "
            "anything else is another run, and `alignbench run` trains it"
        )
    base = recipe_of_run(run)
    layers = [Layer(str(run.path / layout.RECIPE_FILE), base.resolved(), Path()), Layer("--set", values, Path.cwd())]
    return recipe_of([layer.with_located_files() for layer in layers])


def measure_again(run: StoredRun, recipe: Recipe, sets: Sequence[str]) -> Path:
    """Evaluates the policy of a finished run by a recipe, and returns where that was written.

    Args:
        run: The run.
        recipe: From `changed_recipe`.
        sets: What was changed, for the record.

    Raises:
        LeakError: Training could see prompts that it would be measured on.
        ModelError: Its policy cannot be loaded as it was trained.
    """
    if recipe.policy.quantization != "none":
        raise ModelError(
            f"{run.path}: an adapter on a quantized model cannot be loaded as it was trained; measure what "
            "`alignbench export --merge` makes of it by `alignbench evaluate`"
        )
    quiet_libraries()
    set_threads(recipe.hardware.threads)
    device = choose_device(recipe.hardware.device)
    with RunDirectory.reopen(run.path) as directory:
        seed_everything(recipe.seed)
        cost = Cost()
        with measured(cost, device):
            parts = make_parts(recipe, _upstream_artifacts(run), device, trains=False)
            yardsticks = make_yardsticks(parts)
            heldout = {whole_text_hash(prompt): prompt.id for prompt in yardsticks.heldout.prompts}
            _require_unseen(run, heldout)
            policy = saved_policy(recipe, run.artifact, device)
            report, same = evaluate_policy(parts, yardsticks, policy, cost)
        sources = {name: sources_of(judge) for name, judge in yardsticks.judges.items()}
        record = new_measurement(run, "evaluate", sets, recipe.resolved()["evaluation"])
        if (known := run.prompts) is not None:
            directory.write_prompts(known.seen, {**known.heldout, **heldout}, known.statistics, anew=True)
        directory.write_evaluation(report, same, sources, prompt_rows=yardsticks.heldout.rows, measurement=record)
        directory.complete_again(cost)
    return layout.evaluation_path(run.path, report.protocol, number=record.number)


def new_measurement(
    run: StoredRun, by: Literal["evaluate", "rescore"], changed: Sequence[str], evaluation: Mapping[str, Any]
) -> StoredMeasurement:
    """Returns the record of a measurement that comes after all that a run has."""
    return StoredMeasurement(
        number=run.n_measurements + 1,
        by=by,
        changed=tuple(changed),
        evaluation=dict(evaluation),
        alignbench=__version__,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _upstream_artifacts(run: StoredRun) -> dict[str, Path]:
    """The artifact of the policy that training started from, where it still lies beside the run."""
    results = run.path.parent.parent
    found = {
        one.role: layout.run_path(results, one.recipe, one.seed) / layout.ARTIFACT
        for one in run.status.upstream
        if one.role == "policy"
    }
    return {role: path for role, path in found.items() if path.is_dir()}


def _require_unseen(run: StoredRun, heldout: Mapping[str, str]) -> None:
    """LeakError where a run could train on what it is to be measured on."""
    shared = sorted(heldout.keys() & set(run.prompts.seen if run.prompts else ()))
    if shared:
        raise LeakError(
            f"{run.label}: training could see {len(shared)} of the prompts that it would be measured on, for example "
            f"the one with id {heldout[shared[0]]!r}; expected prompts that it was not trained on"
        )
