"""One process at a time writes a run."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from alignbench.errors import RunExistsError
from alignbench.results import layout


class RunHeldError(RunExistsError):
    """Another process is writing this run."""


class RunLock:
    """An exclusive lock file. The kernel drops the lock when its process dies, so a stale file never blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            if not _take(descriptor):
                holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
                os.close(descriptor)
                raise RunHeldError(
                    f"{path.parent}: process {holder} is writing this run (lock {path.name}); "
                    "wait until it has ended, or give this run another name with --name"
                )
            if _is_same_file(descriptor, path):
                break
            os.close(descriptor)  # the holder before us has just removed the file
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Removes the lock file and lets go; harmless when already done."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def is_locked(path: Path) -> bool:
    """True while a living process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    free = _take(descriptor)
    os.close(descriptor)
    return not free


def is_held(run: Path) -> bool:
    """True while a process writes a run, or has sent it to a machine that does not see it."""
    return is_locked(layout.lock_path(run)) or is_locked(layout.away_path(run))


def _take(descriptor: int) -> bool:
    """Locks an open file; a second try passes over a reader that is just asking `is_locked`."""
    for wait in (0.05, 0.0):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(wait)
        else:
            return True
    return False


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
