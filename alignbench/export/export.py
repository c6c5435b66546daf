"""Exports what a run has trained: checkpoint, tokenizer, generation config, model card, recipe."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alignbench.errors import ResultsError, UsageError
from alignbench.export.checkpoint import Exported, export_classifier, export_policy
from alignbench.export.folders import without_folders
from alignbench.export.model_card import model_card
from alignbench.pipeline.stored import recipe_of_run
from alignbench.recipe.yaml import dump_yaml
from alignbench.results import layout
from alignbench.results.reader import StoredRun, find_runs


def export(path: Path, directory: Path, *, merge: bool = False) -> Exported:
    """Writes the model of a run into a folder, from where transformers loads it; all of it, or nothing.

    Args:
        path: The run's directory, or that of its recipe where this has one seed.
        directory: Where it goes: an empty folder, or none yet.
        merge: Write an adapter merged into its base model, as one whole checkpoint.

    Returns:
        What was written, and what could not be.

    Raises:
        UsageError: The folder is not empty, or several runs are meant.
        ResultsError: There is no complete run, or its trained model is gone.
        ModelError: The model cannot be loaded.
    """
    _require_empty(directory)
    run = the_run(path)
    if not run.artifact.is_dir() or not any(run.artifact.iterdir()):
        raise ResultsError(f"{run.path}: its trained model is gone ({layout.ARTIFACT}/); run its recipe again")
    recipe = recipe_of_run(run)
    with _whole_or_nothing(directory) as scratch:
        if run.status.kind == "reward_model":
            exported = export_classifier(recipe, run.artifact, scratch)
        else:
            exported = export_policy(recipe, run.artifact, scratch, merge=merge)
        (scratch / layout.RECIPE_FILE).write_text(dump_yaml(without_folders(dict(run.recipe))), encoding="utf-8")
        (scratch / "README.md").write_text(model_card(run, recipe, exported), encoding="utf-8")
    return exported


def the_run(path: Path) -> StoredRun:
    """Returns the one complete run at or below a path; UsageError where there are several."""
    runs, _ = find_runs(path)
    if len(runs) > 1:
        named = ", ".join(str(run.path) for run in runs[:4]) + (" ..." if runs[4:] else "")
        raise UsageError(f"{path}: got {len(runs)} runs, expected one; name one of {named}")
    return runs[0]


def _require_empty(directory: Path) -> None:
    if directory.is_dir() and any(directory.iterdir()):
        raise UsageError(f"{directory}: got a folder that is not empty, expected an empty one, or a new name")
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory}: got a file, expected an empty folder, or a new name")


@contextmanager
def _whole_or_nothing(directory: Path) -> Iterator[Path]:
    """Gives a folder beside `directory` to write to, which takes its name once all of it is there."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        yield scratch
        scratch.chmod(0o755)  # mkdtemp's are for their maker alone
        scratch.replace(directory)  # an empty folder gives way
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
