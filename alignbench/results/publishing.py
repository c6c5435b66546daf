"""How a complete run gets its final name, and what a kill in between leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

from alignbench.results import layout
from alignbench.results.recognition import read_status


def publish(partial: Path, final: Path) -> None:
    """Gives a complete run its final name. A run that it replaces is moved aside first and deleted last."""
    shutil.rmtree(partial / layout.CHECKPOINTS, ignore_errors=True)
    aside = layout.replaced_path(final)
    if final.exists():
        final.rename(aside)
    partial.rename(final)
    shutil.rmtree(aside, ignore_errors=True)


def repair(final: Path, partial: Path) -> None:
    """Finishes what a killed process left between marking a run complete and giving it its name."""
    aside, begun = layout.replaced_path(final), read_status(partial)
    if begun is not None and begun.state == "complete":
        publish(partial, final)
    if aside.exists() and not final.exists():
        aside.rename(final)
    shutil.rmtree(aside, ignore_errors=True)
