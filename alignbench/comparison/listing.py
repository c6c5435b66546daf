"""A list of runs as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignbench.comparison.document import Section
from alignbench.comparison.text_table import table
from alignbench.errors import ResultsError
from alignbench.results.layout import lock_path
from alignbench.results.lock import is_locked
from alignbench.results.reader import Paths, SkippedRun, StoredRun, scan_runs


def render_runs(paths: Paths) -> str:
    """Returns a table of all runs below some paths, those in progress and damaged ones included."""
    runs, skipped = scan_runs(paths)
    if not runs and all(run.state == "missing" for run in skipped):
        raise ResultsError(f"no runs in {_named(paths, skipped)}; `alignbench run RECIPE` makes one")
    header = ["recipe", "seed", "method", "kind", "state", "protocol", "wall seconds", "finished", "hash"]
    rows = [*map(_complete, runs), *(_unfinished(run) for run in skipped if run.status is not None)]
    remarks = [str(run) for run in skipped]
    title = f"{len(runs)} complete, {len(skipped)} not"
    return table(Section("runs", title, header, rows, remarks))


def _named(paths: Paths, skipped: Sequence[SkippedRun]) -> str:
    given = [paths] if isinstance(paths, (str, Path)) else paths
    return ", ".join(str(run.path) for run in skipped) or ", ".join(map(str, given))


def _complete(run: StoredRun) -> list[str]:
    status = run.status
    protocols = ", ".join(evaluation.record.protocol for evaluation in run.evaluations) or "-"
    seconds = f"{run.charged_cost.wall_seconds:,.1f}"
    return [
        status.recipe, str(status.seed), status.method, status.kind, "complete", protocols, seconds,
        (status.finished or "-")[:16], status.run_hash[:8],
    ]  # fmt: skip


def _unfinished(run: SkippedRun) -> list[str]:
    status = run.status
    assert status is not None
    was_killed = status.state == "running" and not is_locked(lock_path(run.path))
    state = "interrupted" if was_killed or status.is_interrupted else status.state
    return [
        status.recipe, str(status.seed), status.method, status.kind, state, "-",
        f"{status.cost.wall_seconds:,.1f}",
        "-", status.run_hash[:8],
    ]  # fmt: skip
