"""Toxicity at equal length, for recipes whose completions have become shorter or longer. Reads no texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignbench.comparison.pooling import Measurement, RecipeRuns
from alignbench.records import MetricKey
from alignbench.results.layout import COMPLETIONS_FILE, PROMPT_ID
from alignbench.results.reader import StoredEvaluation, readable
from alignbench.results.schema import UnreadableError
from alignbench.statistics.estimate import Estimate
from alignbench.statistics.length_matching import LengthMatched, ScoredTexts, length_matched

MATCHED_METRICS = ("toxicity_mean", "toxicity_rate")
"""Means over completions; a maximum over the k of a prompt has no single length."""


def with_length_matched(
    metrics: Mapping[MetricKey, Measurement], recipe: RecipeRuns, baseline: RecipeRuns
) -> dict[MetricKey, Measurement]:
    """Returns the measurements, the toxicity metrics among them with their difference at equal length."""
    sides = [[evaluation for _, evaluation in side.runs] for side in (recipe, baseline)]
    has_threshold = all("toxicity_threshold" in one.record.comparability for side in sides for one in side)
    wanted = [
        key
        for key, one in metrics.items()
        if key.metric in MATCHED_METRICS
        and one.difference is not None
        and (has_threshold or key.metric != "toxicity_rate")
    ]
    try:
        found = _matched(sides, wanted)
    except UnreadableError as error:
        found = [LengthMatched(Estimate(None, reason=str(error)), None)] * len(wanted)
    return dict(metrics) | {
        key: replace(metrics[key], length_matched=one) for key, one in zip(wanted, found, strict=True)
    }


def _matched(sides: Sequence[Sequence[StoredEvaluation]], keys: Sequence[MetricKey]) -> list[LengthMatched]:
    named = {prompt: group for side in sides for one in side for prompt, group in one.record.prompt_groups.items()}
    places: dict[object, int] = {}
    texts, baseline = (_scored_texts(side, keys, named, places) for side in sides)
    return length_matched(texts, baseline)


def _scored_texts(
    evaluations: Sequence[StoredEvaluation],
    keys: Sequence[MetricKey],
    groups: Mapping[str, str],
    places: dict[object, int],
) -> ScoredTexts:
    """Pools the completions of all seeds; `places` numbers the prompts, those of one group alike, and grows."""
    prompts: list[int] = []
    lengths: list[int] = []
    scores = np.empty((0, len(keys)))
    for evaluation in evaluations:
        path = evaluation.path / COMPLETIONS_FILE
        if not path.exists():
            raise UnreadableError(f"no {COMPLETIONS_FILE}")
        with readable(path):
            columns = _columns(path, set(map(_score, keys)))
            names = [groups.get(one, (one,)) for one in map(str, columns[PROMPT_ID])]  # no id is the name of a group
            prompts += [places.setdefault(name, len(places)) for name in names]
            lengths += [int(one) for one in columns["n_tokens"]]
            table = np.empty((len(columns[PROMPT_ID]), len(keys)))
            for column, key in zip(table.T, keys, strict=True):
                values = np.array(columns[_score(key)], dtype=np.float64)
                column[:] = _is_toxic(values, evaluation) if key.metric == "toxicity_rate" else values
        scores = np.concatenate([scores, table])
    return ScoredTexts(np.array(prompts, dtype=np.int64), np.array(lengths, dtype=np.int64), scores)


def _score(key: MetricKey) -> str:
    """Returns the column of completions.parquet that a metric is taken over."""
    return str(MetricKey("toxicity", key.scorer))


def _columns(path: Path, scores: set[str]) -> dict[str, list[Any]]:
    """Returns the columns of completions.parquet that are asked for, never its texts."""
    import pyarrow.parquet as pq

    found: dict[str, list[Any]] = (
        pq.ParquetFile(path).read(columns=[PROMPT_ID, "n_tokens", *sorted(scores)]).to_pydict()
    )
    return found


def _is_toxic(scores: NDArray[np.float64], evaluation: StoredEvaluation) -> NDArray[np.float64]:
    """Returns 1 where a score passes the protocol's threshold, 0 where not, NaN where there is no score."""
    same = evaluation.record.comparability
    threshold = float(same["toxicity_threshold"])
    reached = scores >= threshold if same.get("threshold_inclusive", True) else scores > threshold
    return np.where(np.isnan(scores), np.nan, reached.astype(np.float64))
