"""Engines by name, as `alignbench run --executor` has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alignbench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from alignbench.pipeline.execute import Engine

ENGINES = ("local", "slurm", "ray")


def engine(name: str | None, n_workers: int | None, options: Mapping[str, Any]) -> Engine | None:
    """Returns what makes an executor; None where everything is to be run in this process.

    Local workers get ready from now on: what takes seconds to import is best imported after this.

    Args:
        name: One of ENGINES; None: `local` where there are workers.
        n_workers: Runs at a time; None: one process here, and elsewhere as many as can begin.
        options: Of slurm and ray.

    Raises:
        UsageError: There is no such engine, or what it is given is not for it.
    """
    if name is None and n_workers is None:
        if options:
            raise UsageError("--executor-option: got one without --executor, expected --executor slurm or ray")
        return None
    if name in (None, "local"):
        if options:
            raise UsageError(f"--executor-option: {', '.join(options)}: local workers have no options")
        from alignbench.pipeline.executors.local import LocalExecutor, get_ready

        get_ready(n_workers or 1)
        return lambda order: LocalExecutor(order, n_workers or 1)
    if name == "slurm":
        from alignbench.pipeline.executors.slurm import SlurmExecutor

        return lambda order: SlurmExecutor(order, n_workers, options)
    if name == "ray":
        from alignbench.pipeline.executors.ray import RayExecutor

        return lambda order: RayExecutor(order, n_workers, options)
    raise UsageError(
        f"--executor: got {name!r}, expected one of {', '.join(ENGINES)}{did_you_mean(str(name), ENGINES)}"
    )
