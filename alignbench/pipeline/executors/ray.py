"""Tasks of a Ray cluster, one for each run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

from alignbench.errors import AlignbenchError, UsageError
from alignbench.pipeline.executors.base import Ended, Order
from alignbench.pipeline.executors.work import Work, carry_out, written
from alignbench.pipeline.plan import Key


class RayExecutor:
    """As many tasks at a time as are allowed, placed by Ray; see `base.Executor`."""

    def __init__(self, order: Order, n_at_once: int | None, options: Mapping[str, Any]) -> None:
        """Submits none yet.

        Args:
            order: What to run; its results directory is on a file system that all nodes see.
            n_at_once: Tasks at a time; None: all that can begin.
            options: `address` of the cluster (else RAY_ADDRESS, else one on this machine), and what a task is given:
                `num_cpus` (1), `num_gpus`, `resources`.

        Raises:
            UsageError: Ray is not installed, or there is no such cluster or option.
        """
        try:
            import ray
        except ImportError:
            raise UsageError("executor ray: Ray is not installed; pip install 'alignbench[ray]'") from None
        self._ray, settings = ray, dict(options)
        address = settings.pop("address", os.environ.get("RAY_ADDRESS"))
        self._is_ours = not ray.is_initialized()
        try:
            if self._is_ours:
                ray.init(address=address, log_to_driver=True, include_dashboard=False)
            threads = str(max(1, int(settings.setdefault("num_cpus", 1))))
            environment = {"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}}
            self._task = ray.remote(carry_out).options(max_retries=0, runtime_env=environment, **settings)
        except (ConnectionError, RuntimeError, TypeError, ValueError) as error:
            raise UsageError(f"executor ray: {error}") from None
        self._order, self._n = order, n_at_once
        self._works: Mapping[Key, Work] = {}
        self._tasks: dict[Any, Key] = {}
        self._open = ExitStack()

    def has_room(self) -> bool:
        """True while fewer tasks than allowed are there."""
        return self._n is None or len(self._tasks) < self._n

    def submit(self, key: Key) -> None:
        """Hands a task to the cluster."""
        self._tasks[self._task.remote(self._works[key])] = key

    def wait(self, seconds: float) -> Sequence[tuple[Key, Ended]]:
        """Returns what has ended; of a node or a worker that has died, the run it was at."""
        done, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=seconds)
        return [(self._tasks.pop(task), self._ended(task)) for task in done]

    def _ended(self, task: Any) -> Ended:
        try:
            ended: Ended = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            first = str(error).strip().partition("\n")[0]
            return Ended("failed", error=AlignbenchError(f"its task died: {first}"), may_retry=True)
        return ended

    def stop(self, *, at_once: bool) -> None:
        """Cancels the tasks: an interrupt in each, or its end at once."""
        for task in self._tasks:
            self._ray.cancel(task, force=at_once)

    def __enter__(self) -> Self:
        self._works = self._open.enter_context(written(self._order))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(at_once=True)
        if self._is_ours:
            self._ray.shutdown()
        self._open.close()
