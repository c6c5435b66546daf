"""Jobs of a Slurm cluster, one for each run, by submitit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

from alignbench.errors import AlignbenchError, UsageError
from alignbench.pipeline.executors.base import Ended, Order
from alignbench.pipeline.executors.work import Work, carry_out, written
from alignbench.pipeline.plan import Key
from alignbench.results import layout

_POLL = 0.5


class SlurmExecutor:
    """As many jobs at a time as are allowed; see `base.Executor`."""

    def __init__(self, order: Order, n_at_once: int | None, options: Mapping[str, Any]) -> None:
        """Submits none yet.

        Args:
            order: What to run; its results directory is on a file system that all nodes see.
            n_at_once: Jobs in the queue at a time; None: all that can begin.
            options: What submitit takes, such as `slurm_partition` and `timeout_min`. `cluster: local` runs jobs as
                processes of this machine.

        Raises:
            UsageError: submitit is not installed, finds no Slurm, or knows no such option.
        """
        try:
            import submitit
        except ImportError:
            raise UsageError("executor slurm: submitit is not installed; pip install 'alignbench[slurm]'") from None
        settings = dict(options)
        try:
            self._submitit = submitit.AutoExecutor(
                folder=order.results.absolute() / layout.JOBS / "slurm", cluster=settings.pop("cluster", "slurm")
            )
            self._submitit.update_parameters(**settings)
        except (RuntimeError, TypeError, ValueError, NameError) as error:
            raise UsageError(f"executor slurm: {error}") from None
        self._order, self._n = order, n_at_once
        self._works: Mapping[Key, Work] = {}
        self._jobs: dict[Key, Any] = {}
        self._open = ExitStack()

    def has_room(self) -> bool:
        """True while fewer jobs than allowed are there."""
        return self._n is None or len(self._jobs) < self._n

    def submit(self, key: Key) -> None:
        """Puts a job into the queue."""
        self._jobs[key] = self._submitit.submit(carry_out, self._works[key])

    def wait(self, seconds: float) -> Sequence[tuple[Key, Ended]]:
        """Returns what has ended; of a job that has died, its run."""
        until = time.monotonic() + seconds
        while not (done := [key for key, job in self._jobs.items() if job.done()]) and time.monotonic() < until:
            time.sleep(_POLL)
        return [(key, _ended(self._jobs.pop(key))) for key in done]

    def stop(self, *, at_once: bool) -> None:
        """Cancels the jobs: each ends, and its run goes on from its last checkpoint."""
        for job in self._jobs.values():
            job.cancel()

    def __enter__(self) -> Self:
        self._works = self._open.enter_context(written(self._order))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(at_once=True)
        self._open.close()


def _ended(job: Any) -> Ended:
    try:
        ended: Ended = job.result()
    except Exception as error:  # of submitit, for a job that has died or was cancelled
        first = str(error).strip().partition("\n")[0]
        return Ended("failed", error=AlignbenchError(f"job {job.job_id} died: {first}"), may_retry=True)
    return ended
