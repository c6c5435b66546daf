"""Makes run directories through the store itself, with numbers that a test chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from alignbench.records import Cost, EvalReport, HackingDiagnosis, MetricValue, PromptRows
from alignbench.reporting.run_directory import RunDirectory
from alignbench.reporting.schema import Upstream

DIRECTIONS = {
    "toxicity_mean": "lower",
    "toxicity_rate": "lower",
    "toxicity_std": "none",
    "expected_max_toxicity": "lower",
    "distinct_2": "higher",
    "corpus_distinct_2": "higher",
    "perplexity": "lower",
    "kl": "none",
    "completion_tokens": "none",
    "repetition_rate": "lower",
    "empty_rate": "lower",
    "pair_accuracy": "higher",
}
COMPARABILITY = {
    "decoding": {"temperature": 1.0, "top_p": 1.0},
    "heldout_prompts": "abc",
    "scorers": {"reward": "r1", "judge": "j1"},
    "hardware_class": "cpu-x86_64",
}


def _begin(results: Path, recipe: str = "ppo", seed: int = 0, run_hash: str = "h0", **options: Any) -> RunDirectory:
    """Begins a run with a small recipe."""
    settings = {
        "method": recipe.split("_")[0],
        "resolved_recipe": f"name: {recipe}\nmethod: {{kl_coef: 0.2}}\nseed: {seed}\n",
        "environment": {"hardware_class": "cpu-x86_64"},
    }
    return RunDirectory.begin(results, recipe=recipe, seed=seed, run_hash=run_hash, **{**settings, **options})


def _report(
    columns: Mapping[str, Sequence[float]],
    whole: Sequence[MetricValue] = (),
    protocol: str = "trl-detox-v1",
    unscored: Mapping[str, int] | None = None,
    completions: pd.DataFrame | None = None,
) -> EvalReport:
    """Builds an evaluation from values per prompt; `perplexity` holds logarithms. One completion per prompt."""
    n = len(next(iter(columns.values()))) if columns else 0
    values = pd.DataFrame(dict(columns), index=pd.Index([f"p{i}" for i in range(n)], name="prompt_id"), dtype=float)
    metrics = []
    for name, column in columns.items():
        metric, _, scorer = name.partition("@")
        mean = float(np.nanmean(np.asarray(column, dtype=float)))
        value = math.exp(mean) if metric == "perplexity" else mean
        n_scored = int(np.isfinite(np.asarray(column, dtype=float)).sum())
        missing = (unscored or {}).get(name, 0)
        metrics.append(
            MetricValue(metric, scorer or None, value, None, None, DIRECTIONS[metric], n_scored, n - n_scored + missing)
        )
    default = pd.DataFrame(
        {
            "prompt_id": values.index,
            "prompt": "I",
            "sample": 0,
            "completion": "am",
            "n_tokens": 1,
            "finish_reason": "eos",
        }
    )
    return EvalReport(protocol, (*metrics, *whole), values, default if completions is None else completions)


def _add_run(
    results: Path,
    recipe: str,
    columns: Mapping[str, Sequence[float]],
    *,
    seed: int = 0,
    whole: Sequence[MetricValue] = (),
    comparability: Mapping[str, Any] = COMPARABILITY,
    protocol: str = "trl-detox-v1",
    unscored: Mapping[str, int] | None = None,
    cost: Cost | None = None,
    upstream_cost: Cost | None = None,
    upstream: Sequence[Upstream] = (),
    train_reward: float | None = None,
    log: Sequence[Mapping[str, object]] = (),
    completions: pd.DataFrame | None = None,
    prompts: tuple[Sequence[str], Mapping[str, str]] | None = ((), {}),
    prompt_rows: PromptRows | None = None,
    reward_hacking: HackingDiagnosis | None = None,
    reward_hacking_reason: str | None = None,
    prompt_groups: Mapping[str, str] | None = None,
    **options: Any,
) -> Path:
    """Writes a complete run."""
    run = _begin(results, recipe, seed, f"{recipe}-{seed}", upstream=upstream, **options)
    with run:
        for step, row in enumerate(log, 1):
            run.log_step(step, row)
        if prompts is not None:
            run.write_prompts(*prompts)
        report = _report(columns, whole, protocol, unscored, completions)
        report = replace(report, prompt_groups=prompt_groups or {})
        run.write_evaluation(report, comparability, prompt_rows=prompt_rows)
        return run.complete(
            cost=cost or Cost(),
            upstream_cost=upstream_cost,
            train_reward=train_reward,
            reward_hacking=reward_hacking,
            reward_hacking_reason=reward_hacking_reason,
        )


@pytest.fixture
def begin():
    return _begin


@pytest.fixture
def report():
    return _report


@pytest.fixture
def add_run():
    return _add_run


@pytest.fixture
def comparability():
    return COMPARABILITY
