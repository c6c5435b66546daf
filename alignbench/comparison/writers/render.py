"""A comparison as text, in every format; a list of runs. All formats hold the same numbers, JSON and CSV unrounded."""

from __future__ import annotations

import csv
import json
from io import StringIO

from alignbench.comparison import FORMATS
from alignbench.comparison.comparison import Comparison
from alignbench.comparison.document import Section, document
from alignbench.comparison.writers import html_fragment, latex, markdown, terminal
from alignbench.errors import ResultsError, UsageError, did_you_mean
from alignbench.results.layout import lock_path
from alignbench.results.lock import is_locked
from alignbench.results.reader import Paths, SkippedRun, StoredRun, scan_runs

LIST_SEPARATOR = " | "
"""Between the items of a list in a cell of CSV."""


def render(comparison: Comparison, format: str = "table") -> str:
    """Returns a comparison in one of `FORMATS`."""
    if format not in FORMATS:
        raise UsageError(
            f"--format: got {format!r}, expected one of {', '.join(FORMATS)}{did_you_mean(format, FORMATS)}"
        )
    if format == "json":
        return json.dumps(comparison.records(), indent=1, allow_nan=False)
    if format == "csv":
        return _csv(comparison)
    writers = {
        "table": terminal.write,
        "markdown": markdown.write,
        "latex": latex.write,
        "html-fragment": html_fragment.write,
    }
    return writers[format](document(comparison))


def _csv(comparison: Comparison) -> str:
    """Returns the records with one header and no comments; lists as text, what is null as an empty cell."""
    records = comparison.records()
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(records[0])
    writer.writerows([_cell(value) for value in record.values()] for record in records)
    return text.getvalue().rstrip("\n")


def _cell(value: object) -> object:
    return LIST_SEPARATOR.join(map(str, value)) if isinstance(value, list) else value


def render_runs(paths: Paths) -> str:
    """Returns a table of all runs below some paths, those in progress and damaged ones included."""
    runs, skipped = scan_runs(paths)
    if not runs and all(run.state == "missing" for run in skipped):
        where = ", ".join(str(run.path) for run in skipped) or str(paths)
        raise ResultsError(f"no runs in {where}; `alignbench run RECIPE` makes one")
    header = ["recipe", "seed", "method", "kind", "state", "protocol", "wall seconds", "finished", "hash"]
    rows = [*map(_complete, runs), *(_unfinished(run) for run in skipped if run.status is not None)]
    remarks = [str(run) for run in skipped]
    title = f"{len(runs)} complete, {len(skipped)} not"
    return terminal.table(Section(title, header, rows, remarks))


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
    state = "interrupted" if status.state == "running" and not is_locked(lock_path(run.path)) else status.state
    return [
        status.recipe, str(status.seed), status.method, status.kind, state, "-",
        f"{status.cost.wall_seconds:,.1f}",
        "-", status.run_hash[:8],
    ]  # fmt: skip
