"""Runs that travel: to machines that do not see the results directory, and back.

The directory is made there under the same path, since what a run has saved may name another run by its path. A run
takes along its recipe, the runs that it builds on, and what there is of it already; it comes back as it then is.
"""

from __future__ import annotations

import io
import shutil
import socket
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from alignbench.errors import UsageError
from alignbench.pipeline.executors import work as in_place
from alignbench.pipeline.executors.base import Ended
from alignbench.pipeline.executors.work import Work
from alignbench.results import layout
from alignbench.results.lock import is_held
from alignbench.results.publishing import repair

Luggage = Mapping[str, bytes]
"""Archives of files and folders, by their path in the results directory."""


def of_complete(work: Work) -> Luggage:
    """Returns a complete run, for those that build on it, and its recipe."""
    return _packed(work.results, [work.recipe.parent, work.final])


def of_own(work: Work) -> Luggage:
    """Returns what a run takes along of its own: its recipe, its sweep, and what an earlier attempt has left."""
    return _packed(work.results, [work.recipe.parent, work.partial, *([work.tuning] if work.is_tuned else [])])


def carry_out(work: Work, *luggage: Luggage) -> tuple[Ended, Luggage]:
    """Carries out a run, and returns the run itself where it has travelled."""
    if work.is_seen or not luggage:
        return in_place.carry_out(work), {}
    if is_held(work.final):
        return Ended("held"), {}
    _clear(work)  # what a killed attempt has left: what counts is where the command is
    try:
        for one in luggage:
            _unpack(one, work.results)
    except OSError as error:
        said = f"{work.results}: cannot be made on {socket.gethostname()}, which does not see it: {error.strerror}"
        return Ended("failed", error=UsageError(f"{said}; choose another --results")), {}
    ended = in_place.carry_out(work)
    back = _packed(work.results, [work.final, work.partial])
    _clear(work)
    return ended, back


def _clear(work: Work) -> None:
    for path in (work.final, work.partial):
        shutil.rmtree(path, ignore_errors=True)


def take_back(luggage: Luggage, work: Work) -> None:
    """Puts a run that comes back where it would be if it had been carried out here.

    A complete run gets its name as every run does: one that it replaces stays until then.
    """
    with _opened(luggage, work.results) as found:
        for path in found.values():
            work.partial.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(work.partial, ignore_errors=True)
            path.rename(work.partial)
    if luggage:
        repair(work.final, work.partial)


def _packed(results: Path, paths: Iterable[Path]) -> Luggage:
    """Returns what there is of paths in the results directory."""
    return {path.relative_to(results).as_posix(): _archive(path) for path in paths if path.exists()}


def _archive(path: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(path, path.name)
    return buffer.getvalue()


@contextmanager
def _opened(luggage: Luggage, results: Path) -> Iterator[dict[str, Path]]:
    """Yields what is in it, unpacked beside where it belongs, so that it can be moved there in one step."""
    (results / layout.JOBS).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=results / layout.JOBS, prefix="unpacked-") as scratch:
        found = {}
        for number, (name, archive) in enumerate(luggage.items()):
            with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
                opened.extractall(Path(scratch, str(number)), filter="data")
            found[name] = Path(scratch, str(number), Path(name).name)
        yield found


def _unpack(luggage: Luggage, results: Path) -> None:
    """Puts things in place, but for those that another run, or an earlier attempt, has left there the same."""
    with _opened(luggage, results) as found:
        for name, path in found.items():
            place = results / name
            if _same(path, place):
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_dir():
                place.rename(path.with_name(path.name + ".replaced"))
            try:
                path.rename(place)
            except OSError:  # another run of this machine has just done the same
                if not _same(path, place):
                    raise


def _same(one: Path, other: Path) -> bool:
    """True where two files, or what says what two folders are, have the same bytes."""
    names = (layout.STATUS_FILE, layout.RECIPE_FILE) if one.is_dir() else ("",)
    marks = [name for name in names if (one / name).is_file() and (other / name).is_file()]
    return bool(marks) and (one / marks[0]).read_bytes() == (other / marks[0]).read_bytes()
