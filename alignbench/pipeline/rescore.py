"""A judge, or a metric of texts, added to finished runs: on their stored completions, which are not drawn again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignbench.errors import ResultsError, UsageError
from alignbench.evaluation.metrics.measure import Scored
from alignbench.evaluation.protocols import get_protocol
from alignbench.evaluation.restored import measured_of_texts, sample_of
from alignbench.evaluation.samples import toxicity_scores
from alignbench.pipeline.again import new_measurement
from alignbench.recipe.scorers import ScorerSettings
from alignbench.records import Cost, EvalReport, MetricKey, Scorer
from alignbench.results import layout
from alignbench.results.reader import StoredEvaluation, StoredRun
from alignbench.results.writer import RunDirectory
from alignbench.runtime.clock import measured
from alignbench.runtime.ledger import spending
from alignbench.scorers.base import cut_prompts, sources_of
from datasets_prep.settings import PromptSettings, named_source

if TYPE_CHECKING:
    import pandas as pd
    import torch


def rescore(
    run: StoredRun,
    judges: Mapping[str, tuple[ScorerSettings, Scorer]],
    metrics: Sequence[str],
    device: torch.device,
) -> Path:
    """Measures further judges and metrics on the stored completions of a finished run; returns where they are written.

    Args:
        run: The run.
        judges: The judges by name, with their settings.
        metrics: Names of metrics that need texts alone.
        device: Where the judges compute.

    Raises:
        UsageError: A judge or a metric of this name is there already, or there is no such metric.
        ResultsError: The run has no stored completions.
        ScorerError: A judge gives what is no number between 0 and 1.
    """
    evaluation, frame = _stored(run)
    record = evaluation.record
    _require_new(run, evaluation, judges, metrics)
    cost = Cost()
    with (
        RunDirectory.reopen(run.path) as directory,
        measured(cost, device),
        spending(*(judge for _, judge in judges.values())) as spent,
    ):
        protocol = get_protocol(record.protocol.partition("@")[0].rstrip("*"))
        sample = sample_of(frame, protocol, record.prompt_groups if _groups_by_column(run, evaluation) else {})
        prompts = [prompt for prompt in sample.prompts for _ in range(sample.k)]
        texts = [prompt.text for prompt in prompts], [one.text for one in sample.completions]
        scored = {}
        for name, (_, judge) in judges.items():
            scores = toxicity_scores(judge, name, prompts, sample.completions)
            frame[str(MetricKey("toxicity", name))] = scores
            scored[name] = Scored(scores.reshape(-1, sample.k), sum(cut_prompts(judge, *texts)))
        new, columns = measured_of_texts(sample, scored, metrics, record.prompt_groups)
    cost.charge(replace(spent, reward_calls=len(frame) * len(judges)))
    ids, values = evaluation.prompt_values
    same, changed = (
        _conditions(evaluation, judges),
        [*(f"scorer {name}" for name in judges), *map("metric {}".format, metrics)],
    )
    report = EvalReport(
        str(same.get("protocol", record.protocol)),
        (*record.metrics, *new),  # type: ignore[arg-type]  # stored ones have the same fields
        _frame(ids, {**values, **{str(one.key): one.values for one in columns}}),
        frame,
        _divergence(evaluation),
        record.prompt_groups,
        record.answer_cost,  # type: ignore[arg-type]
    )
    sources = {**record.scorer_sources, **{name: sources_of(judge) for name, (_, judge) in judges.items()}}
    measurement = new_measurement(run, "rescore", changed, _block(run, evaluation, judges))
    directory.write_evaluation(report, same, sources, prompt_rows=record.prompt_rows, measurement=measurement)
    directory.complete_again(cost)
    return layout.evaluation_path(run.path, report.protocol, number=measurement.number)


def _stored(run: StoredRun) -> tuple[StoredEvaluation, pd.DataFrame]:
    """The evaluation that is shown of a run, and its completions."""
    import pandas as pd

    if len(run.evaluations) != 1:
        raise UsageError(f"{run.path}: got {len(run.evaluations)} evaluations, expected one whose texts are scored")
    path = run.evaluations[0].path / layout.COMPLETIONS_FILE
    if not path.is_file():
        raise ResultsError(
            f"{run.path}: its completions are gone ({path.name}); `alignbench evaluate` measures it again"
        )
    return run.evaluations[0], pd.read_parquet(path)


def _require_new(
    run: StoredRun, evaluation: StoredEvaluation, judges: Mapping[str, Any], metrics: Sequence[str]
) -> None:
    there = {key.scorer for key in evaluation.metrics} & judges.keys()
    if there:
        raise UsageError(
            f"{run.label}: a scorer called {min(map(str, there))!r} has judged it already; name it otherwise"
        )
    known = {key.metric for key in evaluation.metrics if key.scorer is None} & set(metrics)
    if known:
        raise UsageError(f"{run.label}: the metric {min(known)} was measured already")


def _groups_by_column(run: StoredRun, evaluation: StoredEvaluation) -> bool:
    """True where the data say which prompts are variants of one text; else these were found by their texts."""
    source = _evaluation_block(run, evaluation)["prompts"]
    settings = PromptSettings.model_validate_json(json.dumps(run.recipe["data"])) if source is None else source
    if not isinstance(settings, PromptSettings):
        settings = named_source(settings if isinstance(settings, str) else PromptSettings.model_validate(settings))
    return settings.columns.group is not None


def _evaluation_block(run: StoredRun, evaluation: StoredEvaluation) -> dict[str, Any]:
    """The block of the recipe that an evaluation was made by."""
    measurement = evaluation.record.measurement
    return dict(measurement.evaluation if measurement else run.recipe["evaluation"])


def _conditions(evaluation: StoredEvaluation, judges: Mapping[str, tuple[ScorerSettings, Scorer]]) -> dict[str, Any]:
    """What must be equal in one table, with the judges that were added."""
    same = dict(evaluation.record.comparability)
    sees = {name: settings.text != "completion" for name, (settings, _) in judges.items()}
    same["scorers"] = dict(sorted({**same["scorers"], **{n: j.fingerprint for n, (_, j) in judges.items()}}.items()))
    same["prompt_included"] = dict(sorted({**same["prompt_included"], **sees}.items()))
    name, at, split = evaluation.record.protocol.partition("@")
    if any(sees.values()) and not at and not name.endswith("*"):
        name += "*"
    return same | {"protocol": name + at + split}


def _block(
    run: StoredRun, evaluation: StoredEvaluation, judges: Mapping[str, tuple[ScorerSettings, Scorer]]
) -> dict[str, Any]:
    """The block `evaluation` of a recipe that would have measured all of it at once."""
    before = _evaluation_block(run, evaluation)
    added = [settings.model_dump(mode="json") for settings, _ in judges.values()]
    return {**before, "scorers": [*before["scorers"], *added]}


def _frame(ids: Sequence[str], values: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    columns = {name: np.asarray(one, dtype=np.float64) for name, one in values.items()}
    return pd.DataFrame(columns, index=pd.Index(list(ids), name=layout.PROMPT_ID))


def _divergence(evaluation: StoredEvaluation) -> pd.DataFrame | None:
    import pandas as pd

    path = evaluation.path / layout.DIVERGENCE_FILE
    return pd.read_parquet(path) if path.is_file() else None
