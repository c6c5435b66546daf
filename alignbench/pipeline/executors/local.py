"""Workers on this machine: each a process that carries out one run after another.

A worker that dies costs its run a checkpoint at the most: it is replaced, and the run is tried again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Self

from alignbench.errors import AlignbenchError
from alignbench.pipeline.executors.base import Ended, Order
from alignbench.pipeline.executors.work import Work, carry_out, environment_of_share, written
from alignbench.pipeline.plan import Key
from alignbench.runtime import logs, progress, stopping

_IS_FORKED = sys.platform == "linux"
"""Elsewhere libraries do not stand it: each worker loads them for itself."""
_PROCESSES: ForkServerContext | SpawnContext = (
    multiprocessing.get_context("forkserver") if _IS_FORKED else multiprocessing.get_context("spawn")
)
_LOADED = ("alignbench.pipeline.execute", "transformers.generation.utils", "transformers.modeling_utils", "pandas")
"""What every run needs of our code and of libraries, seconds of it: loaded once, for all workers."""


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    key: Key | None = None


class LocalExecutor:
    """So many workers; see `base.Executor`."""

    def __init__(self, order: Order, n_workers: int) -> None:
        """Starts none yet: each begins with its first run."""
        self._order, self._n = order, n_workers
        self._works: Mapping[Key, Work] = {}
        self._workers: dict[int, _Worker] = {}
        self._open = ExitStack()

    def has_room(self) -> bool:
        """True while a worker has nothing to do."""
        return sum(worker.key is not None for worker in self._workers.values()) < self._n

    def submit(self, key: Key) -> None:
        """Has an idle worker begin; starts it where it is not there, or not any more."""
        idle = [place for place in range(self._n) if place not in self._workers or self._workers[place].key is None]
        place = next((one for one in idle if one in self._workers), idle[0])
        worker = self._workers.get(place)
        if worker is None or not worker.process.is_alive():
            worker = self._workers[place] = self._started(place)
        worker.key = key
        worker.pipe.send(self._works[key])

    def _started(self, place: int) -> _Worker:
        get_ready(self._n)
        ours, theirs = _PROCESSES.Pipe()
        environment = os.environ | environment_of_share(self._n, place, len(os.sched_getaffinity(0)), visible_gpus())
        process = _PROCESSES.Process(target=_serve, args=(theirs, logs.settings(), environment), daemon=True)
        with _environment(environment):  # libraries read it when they are loaded
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def wait(self, seconds: float) -> Sequence[tuple[Key, Ended]]:
        """Returns what has ended; of a worker that has died, the run it was at."""
        busy = {id(worker.pipe): place for place, worker in self._workers.items() if worker.key is not None}
        ended: list[tuple[Key, Ended]] = []
        for pipe in wait([self._workers[place].pipe for place in busy.values()], seconds):
            place = busy[id(pipe)]
            worker = self._workers[place]
            key, worker.key = worker.key, None
            assert key is not None
            try:
                ended.append((key, worker.pipe.recv()))
            except (EOFError, OSError):
                worker.process.join()
                error = AlignbenchError(f"its worker ended with {_how(worker.process.exitcode)}")
                ended.append((key, Ended("failed", error=error, may_retry=True)))
                del self._workers[place]
        return ended

    def stop(self, *, at_once: bool) -> None:
        """Asks the workers to end at their next checkpoint, or ends them."""
        for worker in self._workers.values():
            if worker.process.is_alive():
                (worker.process.kill if at_once else worker.process.terminate)()

    def __enter__(self) -> Self:
        self._works = self._open.enter_context(written(self._order))
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.pipe.close()  # an idle one ends by that
            if worker.key is not None:
                worker.process.kill()
            worker.process.join()
        self._open.close()


def get_ready(n_workers: int) -> None:
    """Has what workers need loaded, by a process that they are forked from, while this one goes on to other things."""
    from multiprocessing import forkserver

    if _IS_FORKED:
        _PROCESSES.set_forkserver_preload(list(_LOADED))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a Ctrl-C is for the command alone
        try:
            with _environment(environment_of_share(n_workers, 0, len(os.sched_getaffinity(0)), ())):
                forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, log: logs.LogSettings, environment: Mapping[str, str]) -> None:
    """What a worker does: one run after the other, until there is nobody to give it any."""
    import torch

    os.setsid()  # a Ctrl-C of the terminal is for the command, which tells its workers
    os.environ.clear()  # it may be forked from a process that is older than some of it
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    logs.set_up(*log, run_first=True)
    progress.use_bar(False)
    signal.signal(signal.SIGTERM, lambda _number, _frame: stopping.ask())
    while not stopping.is_asked():
        try:
            work = pipe.recv()
        except (EOFError, OSError):
            return
        ended = carry_out(work)
        with suppress(OSError):  # the command itself was killed
            pipe.send(ended)


@contextmanager
def _environment(changed: Mapping[str, str]) -> Iterator[None]:
    """Within the block processes begin with these variables."""
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them: by number, or by identifier."""
    import torch

    n = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [name.strip() for name in names if name.strip()][:n] or [str(i) for i in range(n)]


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"signal {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"
