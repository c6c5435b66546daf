"""What runs where, how far it is, and what failed and why, while others write."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignbench.comparison.document import Section
from alignbench.comparison.text_table import table
from alignbench.errors import ResultsError
from alignbench.recipe.sweeps import TUNING
from alignbench.results import layout
from alignbench.results.failures import read_failures
from alignbench.results.lock import is_held, is_locked
from alignbench.results.reader import SkippedRun, StoredRun, scan_runs
from alignbench.runtime.durations import duration

_FRESH = 120.0
"""Seconds since progress was last written, within which a run on another machine counts as running."""


def render_progress(results: Path) -> str:
    """Returns a line for every run in a results directory, trials of sweeps included, and why some failed.

    Raises:
        ResultsError: There is no such directory, or nothing in it.
    """
    folders = [folder for folder in (results, results / TUNING) if folder.is_dir()]
    found = [_scanned(folder) for folder in folders]
    complete = [run for runs, _ in found for run in runs]
    unfinished = [run for _, skipped in found for run in skipped]
    statuses = [run.status for run in complete] + [run.status for run in unfinished if run.status is not None]
    there = {(status.recipe, status.seed) for status in statuses}
    ordered = [key for key in _ordered(results) if key not in there]
    without_trace = {key: why for key, why in read_failures(results).items() if key not in there}
    if not (there or ordered or unfinished or without_trace):
        raise ResultsError(f"no runs in {results}; `alignbench run RECIPE` makes one")
    rows = [_complete(run) for run in complete]
    rows += [_unfinished(run) for run in unfinished]
    rows += [_ordered_row(folders, *key) for key in ordered if key not in without_trace]
    rows += [[name, str(seed), "failed", "", "", ""] for name, seed in without_trace]
    states = [row[2] for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    failed = [f"{run.path}: {run.reason}" for run in unfinished if _state(run, _progress(run)) in ("failed", "damaged")]
    failed += [f"{name}, seed {seed}: {why}" for (name, seed), why in without_trace.items()]
    header = ["recipe", "seed", "state", "where", "at", "time left"]
    return table(Section("runs", counts, header, sorted(rows, key=lambda row: (row[0], int(row[1] or 0))), failed))


def _scanned(folder: Path) -> tuple[list[StoredRun], list[SkippedRun]]:
    """What `scan_runs` finds, again where a run got its final name in between."""
    for _ in range(5):
        runs, skipped = scan_runs(folder)
        if not any(run.state == "missing" for run in skipped):
            break
    return runs, skipped


def _ordered(results: Path) -> Iterator[tuple[str, int]]:
    """Yields the runs that commands under way have ordered; a command that was killed has left its list, unlocked."""
    for lock in sorted((results / layout.JOBS).glob(f"*/{layout.ORDER_LOCK}")):
        if is_locked(lock):
            for path in sorted(lock.parent.glob("*/seed*")):
                yield path.parent.name, int(path.name.removeprefix("seed"))


def _ordered_row(folders: Sequence[Path], name: str, seed: int) -> list[str]:
    away = any(is_locked(layout.away_path(layout.run_path(folder, name, seed))) for folder in folders)
    return [name, str(seed), *(("running", "a machine that does not see it") if away else ("waiting", "")), "", ""]


def _complete(run: StoredRun) -> list[str]:
    took = f"took {duration(run.status.cost.wall_seconds)}"
    return [run.status.recipe, str(run.status.seed), "complete", "", took, ""]


def _unfinished(run: SkippedRun) -> list[str]:
    progress = _progress(run)
    name, seed = run.path.parent.name, _final(run.path).name.removeprefix("seed")
    state = _state(run, progress)
    if not progress:
        return [name, seed, state, "", "", ""]
    done, total = progress["done"], progress["total"]
    at = f"{progress['doing']} {done} of {total} ({100 * done / total:.0f} %)" if total else str(progress["doing"])
    is_running, left = state == "running", progress["seconds_left"]
    where = f"{progress['host']}, process {progress['pid']}" if is_running else ""
    return [name, seed, state, where, at, duration(left) if is_running and left is not None else ""]


def _state(run: SkippedRun, progress: Mapping[str, Any]) -> str:
    if run.status is None:
        return "running" if is_held(_final(run.path)) else "damaged"  # it has just begun
    if run.status.is_interrupted:
        return "interrupted"
    if run.status.state != "running":
        return run.status.state
    fresh = time.time() - progress.get("time", 0.0) < _FRESH
    return "running" if is_held(_final(run.path)) or fresh else "interrupted"


def _final(partial: Path) -> Path:
    return partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))


def _progress(run: SkippedRun) -> Mapping[str, Any]:
    """What the run has written of its progress; empty where it is not there, or just being written."""
    try:
        found = json.loads((run.path / layout.PROGRESS_FILE).read_text(encoding="utf-8"))
        return found if {"doing", "done", "total", "seconds_left", "host", "pid", "time"} <= found.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}
