"""The log of a command, on standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import NamedTuple

from alignbench.runtime import progress


class LogSettings(NamedTuple):
    """What `set_up` was told, for the workers of this process."""

    level: int
    as_json: bool
    libraries: bool


_settings = LogSettings(logging.WARNING, False, False)


def settings() -> LogSettings:
    """Returns what the log was set up with last."""
    return _settings


def set_up(level: int, as_json: bool = False, libraries: bool = False, *, run_first: bool = False) -> None:
    """Sends the log of alignbench to standard error, from `level` on.

    Args:
        level: As in `logging`.
        as_json: An object per line: time, level, logger, message, and what a line on progress holds as `progress`.
        libraries: The notices of other libraries as well; their warnings are there in any case.
        run_first: Begin every line with the run that it is of, as several processes write there.
    """
    global _settings
    _settings = LogSettings(level, as_json, libraries)
    handler = _ToStandardError()
    handler.setFormatter(_Json() if as_json else _RunFirst() if run_first else logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.setLevel(level if libraries else logging.WARNING)
    root.handlers = [*(one for one in root.handlers if not isinstance(one, _ToStandardError)), handler]
    logging.getLogger("alignbench").setLevel(level)


def tear_down() -> None:
    """Takes back what `set_up` did, for whoever goes on in this process."""
    root = logging.getLogger()
    root.handlers = [one for one in root.handlers if not isinstance(one, _ToStandardError)]
    root.setLevel(logging.WARNING)
    logging.getLogger("alignbench").setLevel(logging.NOTSET)


class _ToStandardError(logging.Handler):
    """Looks up standard error at every line: a progress line puts another one there, which prints above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


class _RunFirst(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        name, text = progress.current_run(), super().format(record)
        return text if not name or text.startswith(name) else f"{name}: {text}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "run": progress.current_run() or None,
            "message": record.getMessage(),
        }
        if hasattr(record, "progress"):
            line["progress"] = record.progress
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
