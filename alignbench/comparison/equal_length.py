"""Toxicity at equal length, for recipes whose completions have become shorter or longer. Reads no texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from alignbench.comparison.pooling import Measurement, RecipeRuns
from alignbench.records import MetricKey
from alignbench.results.layout import COMPLETIONS_FILE, PROMPT_ID
from alignbench.results.parquet import floats, parquet_file, readable
from alignbench.results.reader import StoredEvaluation
from alignbench.results.schema import UnreadableError
from alignbench.statistics.estimate import Estimate
from alignbench.statistics.length_matching import LengthMatched, ScoredTexts, length_matched

_SCORES = "toxicity@"
"""How the columns of scores in completions.parquet begin."""
MATCHED_METRICS = ("toxicity_mean", "toxicity_rate")
"""Means over completions; a maximum over the k of a prompt has no single length."""


class EqualLength:
    """Compares recipes with a baseline, of which the completions are read once."""

    def __init__(self, baseline: RecipeRuns) -> None:
        self._baseline = [evaluation for _, evaluation in baseline.runs]

    def added_to(self, metrics: Mapping[MetricKey, Measurement], recipe: RecipeRuns) -> dict[MetricKey, Measurement]:
        """Returns a recipe's measurements, the toxicity metrics among them with their difference at equal length."""
        own = [evaluation for _, evaluation in recipe.runs]
        has_threshold = all("toxicity_threshold" in one.record.comparability for one in (*own, *self._baseline))
        wanted = [
            key
            for key, one in metrics.items()
            if key.metric in MATCHED_METRICS
            and one.difference is not None
            and (has_threshold or key.metric != "toxicity_rate")
        ]
        try:
            found = self._matched(own, wanted)
        except UnreadableError as error:
            found = [LengthMatched(Estimate(None, reason=str(error)), None)] * len(wanted)
        return dict(metrics) | {
            key: replace(metrics[key], length_matched=one) for key, one in zip(wanted, found, strict=True)
        }

    def of(self, key: MetricKey, recipe: RecipeRuns) -> LengthMatched:
        """Returns a recipe's difference at equal length on one metric."""
        if key.metric not in MATCHED_METRICS:
            return LengthMatched(Estimate(None, reason=f"{key.metric} is not taken over single completions"), None)
        try:
            return self._matched([evaluation for _, evaluation in recipe.runs], [key])[0]
        except UnreadableError as error:
            return LengthMatched(Estimate(None, reason=str(error)), None)

    def _matched(self, own: Sequence[StoredEvaluation], keys: Sequence[MetricKey]) -> list[LengthMatched]:
        groups = {
            prompt: group for one in (*own, *self._baseline) for prompt, group in one.record.prompt_groups.items()
        }
        places: dict[object, int] = {}
        texts = _scored_texts(own, [_read(one) for one in own], keys, groups, places)
        return length_matched(texts, _scored_texts(self._baseline, self._completions, keys, groups, places))

    @cached_property
    def _completions(self) -> list[_Completions]:
        return [_read(one) for one in self._baseline]


@dataclass(frozen=True)
class _Completions:
    """What an evaluation has of its completions, without their texts."""

    names: list[str]
    """Of the prompts, in the order in which they first occur."""
    prompts: NDArray[np.int64]
    """(completions,), the place of each one's prompt in `names`."""
    lengths: NDArray[np.int64]
    scores: Mapping[str, NDArray[np.float64]]
    """By column of completions.parquet."""


def _read(evaluation: StoredEvaluation) -> _Completions:
    path = evaluation.path / COMPLETIONS_FILE
    if not path.exists():
        raise UnreadableError(f"no {COMPLETIONS_FILE}")
    with readable(path):
        file = parquet_file(path)
        names = [name for name in file.schema_arrow.names if name.startswith(_SCORES)]
        table = file.read(columns=[PROMPT_ID, "n_tokens", *names], use_threads=False)
        lengths = floats(table.column("n_tokens"))
        if np.isnan(lengths).any():
            raise ValueError("n_tokens: a completion without a length")
        prompts = table.column(PROMPT_ID).combine_chunks().dictionary_encode(null_encoding="encode")
        return _Completions(
            list(map(str, prompts.dictionary.to_pylist())),
            np.asarray(np.from_dlpack(prompts.indices), dtype=np.int64),
            lengths.astype(np.int64),
            {name: floats(table.column(name)) for name in names},
        )


def _scored_texts(
    evaluations: Sequence[StoredEvaluation],
    completions: Sequence[_Completions],
    keys: Sequence[MetricKey],
    groups: Mapping[str, str],
    places: dict[object, int],
) -> ScoredTexts:
    """Pools the completions of all seeds; `places` numbers the prompts, those of one group alike, and grows."""
    prompts, tables = [np.empty(0, dtype=np.int64)], [np.empty((0, len(keys)))]
    for evaluation, one in zip(evaluations, completions, strict=True):
        names = [groups.get(prompt, (prompt,)) for prompt in one.names]  # no id is the name of a group
        numbers = np.array([places.setdefault(name, len(places)) for name in names], dtype=np.int64)
        prompts.append(numbers[one.prompts])
        table = np.empty((len(one.prompts), len(keys)))
        for column, key in zip(table.T, keys, strict=True):
            with readable(evaluation.path / COMPLETIONS_FILE):
                values = one.scores[_score(key)]
            column[:] = _is_toxic(values, evaluation) if key.metric == "toxicity_rate" else values
        tables.append(table)
    lengths = np.concatenate([np.empty(0, dtype=np.int64), *(one.lengths for one in completions)])
    return ScoredTexts(np.concatenate(prompts), lengths, np.concatenate(tables))


def _score(key: MetricKey) -> str:
    """Returns the column of completions.parquet that a metric is taken over."""
    return str(MetricKey("toxicity", key.scorer))


def _is_toxic(scores: NDArray[np.float64], evaluation: StoredEvaluation) -> NDArray[np.float64]:
    """Returns 1 where a score passes the protocol's threshold, 0 where not, NaN where there is no score."""
    same = evaluation.record.comparability
    threshold = float(same["toxicity_threshold"])
    reached = scores >= threshold if same.get("threshold_inclusive", True) else scores > threshold
    return np.where(np.isnan(scores), np.nan, reached.astype(np.float64))
