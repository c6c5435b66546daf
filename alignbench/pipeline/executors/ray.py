"""Tasks of a Ray cluster, one for each run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

from alignbench.errors import AlignbenchError, ResultsError, UsageError
from alignbench.pipeline.executors import travel
from alignbench.pipeline.executors.base import Ended, Order
from alignbench.pipeline.executors.work import UnseenError, Work, carry_out, written
from alignbench.pipeline.plan import Key, upstream_of
from alignbench.results import layout
from alignbench.results.lock import RunHeldError, RunLock

logger = logging.getLogger(__name__)


class RayExecutor:
    """As many tasks at a time as are allowed, placed by Ray; see `base.Executor`."""

    def __init__(self, order: Order, n_at_once: int | None, options: Mapping[str, Any]) -> None:
        """Submits none yet.

        Args:
            order: What to run. Where a node does not see its results directory, runs are sent there and come back.
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
            self._task = ray.remote(travel.carry_out).options(max_retries=0, runtime_env=environment, **settings)
        except (ConnectionError, ImportError, RuntimeError, TypeError, ValueError) as error:
            raise UsageError(f"executor ray: {error}") from None
        self._order, self._n = order, n_at_once
        self._works: Mapping[Key, Work] = {}
        self._tasks: dict[Any, Key] = {}
        self._ended_at_once: list[tuple[Key, Ended]] = []
        self._away: dict[Key, RunLock] = {}
        """Runs that have been sent where nobody sees them."""
        self._sends = False
        """True once a node was met that does not see the results directory."""
        self._complete: dict[Key, Any] = {}
        """Runs that others take along, as objects of Ray."""
        self._open = ExitStack()

    def has_room(self) -> bool:
        """True while fewer tasks than allowed are there."""
        return self._n is None or len(self._tasks) < self._n

    def submit(self, key: Key) -> None:
        """Hands a task to the cluster."""
        work = self._works[key]
        if self._sends and work.final.exists() and not work.force:
            self._ended_at_once.append((key, carry_out(work)))
        elif self._sends:
            try:
                work.final.parent.mkdir(parents=True, exist_ok=True)
                self._away[key] = RunLock(layout.away_path(work.final))
            except RunHeldError as error:
                self._ended_at_once.append((key, Ended("held", error=error)))
            else:
                self._tasks[self._task.remote(work, *self._luggage(key))] = key
        else:
            self._tasks[self._task.remote(work)] = key

    def _luggage(self, key: Key) -> list[Any]:
        """What a run takes along; what several take along is handed to Ray once."""
        needed = upstream_of(self._order.planned[key])
        for one in needed:
            if one not in self._complete:
                self._complete[one] = self._ray.put(travel.of_complete(self._works[one]))
        return [travel.of_own(self._works[key]), *(self._complete[one] for one in needed)]

    def wait(self, seconds: float) -> Sequence[tuple[Key, Ended]]:
        """Returns what has ended; of a node or a worker that has died, the run it was at."""
        ended, self._ended_at_once = self._ended_at_once, []
        if self._tasks:
            done, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=0 if ended else seconds)
            for task in done:
                key = self._tasks.pop(task)
                one = self._result(task, key)
                if isinstance(one.error, UnseenError) and not self._sends:
                    logger.info("%s: runs are sent there, and come back", one.error)
                if isinstance(one.error, UnseenError):
                    self._sends = True
                    self.submit(key)
                else:
                    ended.append((key, one))
        return ended

    def _result(self, task: Any, key: Key) -> Ended:
        """What became of a run, which is here then."""
        lock = self._away.pop(key, None)
        try:
            ended: Ended
            ended, luggage = self._ray.get(task)
            travel.take_back(luggage, self._works[key])
        except self._ray.exceptions.RayError as error:
            first = str(error).strip().partition("\n")[0]
            return Ended("failed", error=AlignbenchError(f"its task died: {first}"), may_retry=True)
        except OSError as error:
            return Ended("failed", error=ResultsError(f"it came back, and cannot be stored: {error}"))
        finally:
            if lock is not None:
                lock.release()
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
        for lock in self._away.values():
            lock.release()
        if self._is_ours:
            self._ray.shutdown()
        self._open.close()
