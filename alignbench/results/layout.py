"""The names of files and folders of a run; docs/results.md explains them."""

from __future__ import annotations

from pathlib import Path

RECIPE_FILE = "recipe.resolved.yaml"
ENVIRONMENT_FILE = "environment.json"
STATUS_FILE = "status.json"
PROMPTS_FILE = "prompts.json"
TRAIN_LOG_FILE = "train_log.jsonl"
TRAIN_COMPLETIONS_FILE = "train_completions.jsonl"
EVENTS_FILE = "events.jsonl"
ARTIFACT = "artifact"
CHECKPOINTS = "checkpoints"
PROGRESS_FILE = "progress.json"
JOBS = ".jobs"
ORDER_LOCK = "command.lock"
"""In the folder there of what a command is to run: held while it lives, and there where its results directory is."""
FAILED = "failed"
"""The folder within it that says why runs failed of which nothing was left."""
PROFILE = "profile"
"""Where a trace of training goes."""
EVALUATIONS = "evaluations"
TUNING_FILE = "tuning.json"
METRICS_FILE = "metrics.json"
PROMPT_VALUES_FILE = "prompt_values.parquet"
COMPLETIONS_FILE = "completions.parquet"
DIVERGENCE_FILE = "divergence.parquet"
PROMPT_ID = "prompt_id"


def run_path(results: str | Path, recipe: str, seed: int) -> Path:
    """Returns the directory of a complete run."""
    return Path(results) / recipe / f"seed{seed}"


def partial_path(results: str | Path, recipe: str, seed: int) -> Path:
    """Returns the directory of a run in progress."""
    return Path(results) / recipe / f".seed{seed}.partial"


def replaced_path(final: Path) -> Path:
    """Returns where a complete run lies while another takes its place."""
    return final.parent / f".{final.name}.replaced"


def tuning_path(results: str | Path, recipe: str) -> Path:
    """Returns the record of a recipe's finished sweep."""
    from alignbench.recipe.sweeps import TUNING

    return Path(results) / TUNING / f"{recipe}.json"


def lock_path(run: Path) -> Path:
    """Returns the lock file of a run, given its complete or its partial directory."""
    name = run.name.removeprefix(".").removesuffix(".partial")
    return run.parent / f".{name}.lock"


def away_path(run: Path) -> Path:
    """Returns the lock file of a run that is carried out by a machine that does not see it, as `lock_path`."""
    return lock_path(run).with_suffix(".away")


def evaluation_path(run: Path, protocol: str, step: int | None = None, number: int = 1) -> Path:
    """Returns the directory of an evaluation, of a point along training with `step`.

    `*` (other prompts than the protocol's own) is no name on every disk. A `number` above 1 is that of a later
    measurement.
    """
    path = run / EVALUATIONS / (protocol.replace("*", ".other-prompts") + (f".{number}" if number > 1 else ""))
    return path if step is None else path / f"step{step}"
