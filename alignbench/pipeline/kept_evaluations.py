"""The evaluation before training, measured once for all runs of one policy and seed.

What training starts from is the same whatever the method, and so is every number of it. It is kept on disk under a key
of all that decides a number, the code that measures and the kernels that multiply among it. The run that measured it
is charged; one that takes it from there has spent nothing on it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignbench import plugins
from alignbench.code_hash import PROJECT, code_hash
from alignbench.evaluation.protocols import EvalProtocol
from alignbench.models.fast.layers import choice
from alignbench.pipeline.model_identity import identity_of, reading_of
from alignbench.records import AnswerCost, Cost, EvalReport, MetricValue, Policy, Prompt, Scorer, fingerprint
from alignbench.runtime.device import hardware_class
from alignbench.scorers.base import may_draw, parts_of
from datasets_prep.cache import read_entry, write_entry

if TYPE_CHECKING:
    import pandas as pd

    from alignbench.models.language_model import LanguageModel

_FRAMES = ("prompt_values", "completions", "divergence")
_TOKENS = "token_ids"
"""Ends the names of columns whose rows are arrays of token ids."""


def kept(
    directory: Path | None, key: Mapping[str, Any] | None, measure: Callable[[], tuple[EvalReport, Cost]]
) -> tuple[EvalReport, Cost | None]:
    """Returns what was kept under a key, and None; else measures it, keeps it, and says what it has cost.

    Args:
        directory: Where evaluations are kept; None keeps nothing.
        key: Of `key_of`; None where the evaluation is not to be kept.
        measure: Called on a miss.
    """
    if directory is None or key is None:
        return measure()
    entry = directory / f"evaluation-{fingerprint(key)}"
    stored = read_entry(entry, _parse)
    if stored is not None:
        return stored, None
    report, spent = measure()
    write_entry(entry, _rows(report), _facts(report))
    return report, spent


def key_of(
    policy: Policy,
    reference: LanguageModel,
    prompts: Sequence[Prompt],
    protocol: EvalProtocol,
    judges: Mapping[str, Scorer],
    **how: Any,
) -> dict[str, Any] | None:
    """Returns all that decides an evaluation, JSON-like.

    None where something does that cannot be told: a judge that draws, or a policy that is no plain language model.
    `how` are the arguments of `evaluate`, JSON-like.
    """
    from alignbench.models.language_model import LanguageModel

    if type(policy) is not LanguageModel or policy.has_adapter or any(map(may_draw, judges.values())):
        return None
    return {
        "prompts": [
            [*prompt.identity, prompt.group, ids]
            for prompt, ids in zip(prompts, policy.encode_prompts(prompts), strict=True)
        ],
        "protocol": dataclasses.asdict(protocol),
        "judges": {name: [judge.fingerprint, *map(reading_of, parts_of(judge))] for name, judge in judges.items()},
        "policy": identity_of(policy),
        "reference": identity_of(reference),
        "hardware": hardware_class(policy.device),
        "kernels": choice.rule(),
        "code": _code(judges),
        "how": how,
    }


def _code(judges: Mapping[str, Scorer]) -> str:
    """Hash of the code that draws, scores and measures; metrics of packages are found by their entry points."""
    judging = {type(part).__module__ for judge in judges.values() for part in (judge, *parts_of(judge))}
    added = sorted(entry.module for entry in plugins.entries_of(plugins.METRICS.group))
    modules = {
        __name__,
        "alignbench.evaluation.evaluator",
        "alignbench.models.language_model",
        *plugins.METRICS.built_in.values(),
        *(name for name in judging if name.partition(".")[0] in PROJECT),  # any other says its code by its fingerprint
    }
    return code_hash(*sorted(modules), *added, follow=bool(added))


def _rows(report: EvalReport) -> list[dict[str, Any]]:
    """The tables of a report, JSON-like: a row for each."""
    rows = []
    for name in _FRAMES:
        frame: pd.DataFrame | None = getattr(report, name)
        if frame is not None:
            plain = frame.reset_index() if name == "prompt_values" else frame
            rows.append({"frame": name, "columns": {column: _plain(plain[column]) for column in plain}})
    return rows


def _plain(column: pd.Series) -> list[Any]:
    return [one.tolist() if isinstance(one, np.ndarray) else one for one in column.tolist()]


def _facts(report: EvalReport) -> dict[str, Any]:
    cost = report.answer_cost
    facts = {
        "protocol": report.protocol,
        "metrics": [dataclasses.asdict(metric) for metric in report.metrics],
        "prompt_groups": dict(report.prompt_groups),
        "answer_cost": None if cost is None else dataclasses.asdict(cost),
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=lambda one: one.tolist()))  # a metric may give numpy's
    return plain


def _parse(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> EvalReport:
    frames = {row["frame"]: _frame(row["columns"]) for row in rows}
    cost = facts["answer_cost"]
    return EvalReport(
        protocol=facts["protocol"],
        metrics=tuple(MetricValue(**{name: _tuple(value) for name, value in one.items()}) for one in facts["metrics"]),
        prompt_values=frames["prompt_values"].set_index("prompt_id"),
        completions=frames["completions"],
        divergence=frames.get("divergence"),
        prompt_groups=facts["prompt_groups"],
        answer_cost=None if cost is None else AnswerCost(**cost),
    )


def _frame(columns: Mapping[str, list[Any]]) -> pd.DataFrame:
    import pandas as pd

    def column(name: str, values: list[Any]) -> Any:
        if not name.endswith(_TOKENS):
            return values
        return pd.Series([None if ids is None else np.array(ids, dtype=np.int32) for ids in values], dtype=object)

    return pd.DataFrame({name: column(name, values) for name, values in columns.items()})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
