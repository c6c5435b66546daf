"""A plug-in of pytest: a JSON line for each test that fails, as it fails, and one for all of them.

PYTHONPATH=benchmarks python -m pytest -p json_lines -m gpu
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

OUTCOMES: Counter[str] = Counter()


def _say(config: pytest.Config, line: dict[str, Any]) -> None:
    terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
    terminal.write(f"\n{json.dumps(line)}\n", flush=True)  # on a line of its own behind the dots


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Counts a test once: when it has run, or when it was skipped or could not be set up."""
    report = yield
    if report.when == "call" or report.outcome != "passed":
        OUTCOMES[report.outcome] += 1
    if report.failed:
        _say(item.config, {"test": report.nodeid, "failed": _last(report.longrepr)})
    return report


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Counts a file that cannot be imported as an error."""
    OUTCOMES["not_collected"] += report.failed


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Says how many there were, however it ended."""
    counts = {name: OUTCOMES[name] for name in ("passed", "failed", "skipped", "not_collected")}
    _say(session.config, {"tests": session.testscollected, **counts})


def _last(problem: Any) -> str:
    crash = getattr(problem, "reprcrash", None)
    return str(crash.message if crash is not None else problem).strip().partition("\n")[0]
