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
    from alignbench.comparison.compare import compare
    from alignbench.errors import AlignbenchError
    from alignbench.evaluation.evaluator import evaluate
    from alignbench.methods.on_policy.config import PPOConfig
    from alignbench.methods.on_policy.trainer import PPOTrainer
    from alignbench.models.adapters import Lora
    from alignbench.models.chat import Chat
    from alignbench.models.loading import load_policy
    from alignbench.pipeline.tuning import run
    from alignbench.recipe.loading import load as load_recipes
    from alignbench.records import Completion, Cost, Decoding, MetricKey, Policy, PreferencePair, Prompt, Scorer
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
    "AlignbenchError": "alignbench.errors",
    "Chat": "alignbench.models.chat",
    "Completion": "alignbench.records",
    "Cost": "alignbench.records",
    "Decoding": "alignbench.records",
    "Lora": "alignbench.models.adapters",
    "MetricKey": "alignbench.records",
    "PPOConfig": "alignbench.methods.on_policy.config",
    "PPOTrainer": "alignbench.methods.on_policy.trainer",
    "Policy": "alignbench.records",
    "PreferencePair": "alignbench.records",
    "Prompt": "alignbench.records",
    "Scorer": "alignbench.records",
    "compare": "alignbench.comparison.compare",
    "evaluate": "alignbench.evaluation.evaluator",
    "load_completions": "alignbench.results.frames",
    "load_curves": "alignbench.results.frames",
    "load_divergence": "alignbench.results.frames",
    "load_events": "alignbench.results.frames",
    "load_metrics": "alignbench.results.frames",
    "load_policy": "alignbench.models.loading",
    "load_recipes": "alignbench.recipe.loading:load",
    "load_results": "alignbench.results.frames",
    "load_train_completions": "alignbench.results.frames",
    "load_train_log": "alignbench.results.frames",
    "run": "alignbench.pipeline.tuning",
}

__all__ = [
    "AlignbenchError",
    "Chat",
    "Completion",
    "Cost",
    "Decoding",
    "Lora",
    "MetricKey",
    "PPOConfig",
    "PPOTrainer",
    "Policy",
    "PreferencePair",
    "Prompt",
    "Scorer",
    "__version__",
    "compare",
    "evaluate",
    "load_completions",
    "load_curves",
    "load_divergence",
    "load_events",
    "load_metrics",
    "load_policy",
    "load_recipes",
    "load_results",
    "load_train_completions",
    "load_train_log",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        module, _, attribute = _EXPORTS[name].partition(":")
        return getattr(import_module(module), attribute or name)
    raise AttributeError(f"module 'alignbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
