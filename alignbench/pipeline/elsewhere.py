"""What was made elsewhere, as a recipe beside stored runs: the same prompts, protocol, judges and base model.

like = yardstick(Path("results"))                 # a run, or a recipe, that says how to measure
recipe = beside(like, {"name": "external", "model": "my/model"}, "theirs")
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignbench.comparison.comparability import group_key
from alignbench.errors import UsageError
from alignbench.pipeline.stored import recipe_of_run
from alignbench.pipeline.stored_answers import check_answers
from alignbench.recipe.layers import Layer, merge
from alignbench.recipe.loading import LoadedRecipe, load
from alignbench.recipe.recipe import Recipe, recipe_of
from alignbench.recipe.yaml import parse_set
from alignbench.results.layout import STATUS_FILE
from alignbench.results.reader import StoredRun, find_runs, scan_runs
from datasets_prep.stored_completions import read_stored_completions

UNTRAINED = "untrained"
_OF_TRAINING = ("pairs", "labelled_completions", "demonstrations", "builds_on", "budget")
"""Blocks that say how a policy is trained, and nothing of how it is measured."""


def yardstick(like: str | None, results: Path) -> tuple[Recipe, StoredRun | None]:
    """Returns the recipe that says how to measure, and the run that was measured so; None where it is a recipe alone.

    Args:
        like: A run, a folder of runs, or a recipe by its file or name; None: the runs of `results`.
        results: The results directory.

    Raises:
        UsageError: The runs were not measured alike, so that it cannot be told which of them is meant.
        ResultsError: There is no run.
    """
    if like is not None and not Path(like).is_dir():
        loaded = load([like])
        return loaded[0].recipe, None
    place = results if like is None else Path(like)
    runs = [run for run in find_runs(place)[0] if run.status.kind == "policy" and run.evaluations]
    if not runs:
        raise UsageError(f"{place}: got no policy that was measured, expected one to measure alike; name it by --like")
    keys = {group_key(evaluation) for run in runs for evaluation in run.evaluations}
    if len(keys) > 1:
        named = ", ".join(dict.fromkeys(run.status.recipe for run in runs))
        raise UsageError(f"{place}: got runs that were not measured alike ({named}); name one of them by --like")
    run = min(runs, key=lambda one: (one.status.method != UNTRAINED, one.status.recipe, one.status.seed))
    return recipe_of_run(run), run


def beside(
    like: Recipe,
    method: Mapping[str, Any],
    name: str,
    *,
    evaluation: Mapping[str, Any] | None = None,
    reference: str | None = None,
    seed: int | None = None,
    sets: Sequence[str] = (),
) -> LoadedRecipe:
    """Returns a recipe that measures what was made elsewhere as another recipe measures its policy.

    Args:
        like: The other recipe.
        method: The method's block.
        name: Name of the row.
        evaluation: What is otherwise in the block of that name.
        reference: The base that KL and perplexity refer to; None: that of the other recipe.
        seed: Of the draws; None: that of the other recipe.
        sets: `key=value`, laid over it.

    Raises:
        RecipeError: With every problem of the result.
    """
    values = {key: value for key, value in like.resolved().items() if key not in _OF_TRAINING}
    values |= {"name": name, "description": "", "method": dict(method)}
    values["policy"] = {**values["policy"], "run": None}
    if reference is not None:
        values["policy"] |= {"model": reference, "revision": None}
    values["evaluation"] = {**values["evaluation"], "evaluate_every": 0, **(evaluation or {})}
    if values["reward"] is not None:
        values["reward"] = _of_judge(values["reward"])
    if seed is not None:
        values["seed"] = seed
    layers = [Layer(f"recipe of {name}", values, Path()), *(Layer("--set", parse_set(one), Path.cwd()) for one in sets)]
    return LoadedRecipe(recipe_of(layers), {}, None, (Layer(f"recipe of {name}", merge(layers), Path()),))


def of_completions(
    file: str,
    like: Recipe,
    run: StoredRun | None,
    columns: Sequence[str] = (),
    sets: Sequence[str] = (),
    *,
    own_prompts: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the method's block for a file of completions, and what it changes in the block of the evaluation.

    Args:
        file: The file.
        like: The recipe that says how to measure.
        run: The run that was measured so.
        columns: `prompt=NAME`, `completion=NAME` and `group=NAME`.
        sets: `key=value`, laid over the recipe.
        own_prompts: Measure on the file's own prompts.

    Raises:
        UsageError: There is no such column to name, or no run whose prompts could be meant.
        DataError: As `check_answers`.
    """
    named = _columns(columns)
    if run is None and not own_prompts:
        raise UsageError(
            "--completions: got a recipe to measure alike, expected a run (--like results/RECIPE/seedK), whose prompts "
            "are known, or --own-prompts"
        )
    answers = read_stored_completions(Path(file), "--completions", named.get("prompt"), named.get("completion"))
    changed = merge([Layer("--set", parse_set(one), Path()) for one in sets]).get("evaluation", {})
    protocol = changed.get("protocol", like.evaluation.protocol) if isinstance(changed, Mapping) else ""
    check_answers(answers, file, protocol, None if own_prompts else run)
    method = {"name": "stored_completions", "file": file, "prompt_column": answers.prompt_column}
    method["completion_column"] = answers.completion_column
    if not own_prompts:
        return method, {}
    source = {"prompts": file, "columns": {"prompt": answers.prompt_column, "group": named.get("group")}}
    return method, {"prompts": source, "n_prompts": None}


def _columns(columns: Sequence[str]) -> dict[str, str]:
    """Reads `prompt=NAME`; UsageError for what is no such thing."""
    named = dict(one.split("=", 1) for one in columns if "=" in one)
    wrong = [one for one in columns if one.partition("=")[0] not in ("prompt", "completion", "group") or "=" not in one]
    if wrong:
        raise UsageError(f"--column: got {wrong[0]!r}, expected prompt=NAME, completion=NAME or group=NAME")
    return named


def _of_judge(reward: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the scorer `reward` needs of a reward block: its classifier; None where it has none."""
    return None if reward.get("classifier") is None else {**reward, "run": None, "also": []}


def name_of(model: str) -> str:
    """Returns a name for the row of a model, from its hub id or path."""
    path = Path(model)
    parts = [part for part in path.parts if not re.fullmatch(r"artifact|seed\d+", part)]
    name = re.sub(r"[^a-z0-9_.-]+", "_", (parts or ["model"])[-1].lower()).strip("_.-")
    return (
        f"{name or 'model'}_external" if (path / STATUS_FILE).exists() or path.name == "artifact" else name or "model"
    )


def are_runs(names: Sequence[str]) -> bool:
    """True where all are folders of finished runs."""
    return all(Path(name).is_dir() and bool(scan_runs(name)[0]) for name in names)


def artifact_of(model: str) -> str:
    """Returns what is measured of a name: of a run's directory its artifact, everything else as it is."""
    path = Path(model)
    return (path / "artifact").as_posix() if (path / STATUS_FILE).exists() else model
