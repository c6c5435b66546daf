"""alignbench: which alignment method should I use?

    alignbench run recipes/ppo_detox.yaml
    alignbench compare results/

    import alignbench
    runs = alignbench.load_results("results/")

The exports below load their modules on first use, so that `import alignbench` costs nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from alignbench._version import __version__

# Libraries report usage to their makers by default; here only what the user turned on stays on.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from alignbench.results.frames import (
        load_completions,
        load_curves,
        load_divergence,
        load_events,
        load_metrics,
        load_results,
        load_train_completions,
        load_train_log,
    )

_EXPORTS = {
    "load_completions": "alignbench.results.frames",
    "load_curves": "alignbench.results.frames",
    "load_divergence": "alignbench.results.frames",
    "load_events": "alignbench.results.frames",
    "load_metrics": "alignbench.results.frames",
    "load_results": "alignbench.results.frames",
    "load_train_completions": "alignbench.results.frames",
    "load_train_log": "alignbench.results.frames",
}

__all__ = [
    "__version__",
    "load_completions",
    "load_curves",
    "load_divergence",
    "load_events",
    "load_metrics",
    "load_results",
    "load_train_completions",
    "load_train_log",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'alignbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
