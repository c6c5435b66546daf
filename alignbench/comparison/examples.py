"""One prompt, answered before and after: what a change of a mean looks like in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignbench.comparison.pooling import RecipeRuns
from alignbench.records import MetricKey
from alignbench.results.layout import COMPLETIONS_FILE, PROMPT_ID
from alignbench.results.parquet import floats, readable
from alignbench.results.reader import StoredEvaluation
from alignbench.results.schema import UnreadableError


@dataclass(frozen=True, slots=True)
class Answered:
    """A completion and its score."""

    recipe: str
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt as the baseline answers it and as another recipe does, each with its first seed's first completion."""

    prompt: str
    before: Answered
    after: Answered
    is_toxic: tuple[bool, bool]
    """Whether the scores of the two pass the protocol's threshold."""


@dataclass(frozen=True, slots=True)
class _Firsts:
    """First completions by prompt."""

    texts: dict[str, tuple[str, str]]
    """Prompt and completion."""
    scores: dict[str, float]


def examples(baseline: RecipeRuns, recipe: RecipeRuns, scorer: str | None, n: int = 1) -> list[Example]:
    """Returns prompts that were answered before and after, with what one scorer says of the answers.

    They are not picked by hand. One is the median of the prompts whose score has moved as the mean has (of two middle
    ones the smaller move); several are those nearest to as many quantiles of all changes, from the largest fall to the
    largest rise. Prompts with an answer that could not be scored do not count. None at all where the completions cannot
    be read.
    """
    sides = [one.runs[0][1] for one in (baseline, recipe)]
    try:
        before, after = (_firsts(one, scorer) for one in sides)
    except UnreadableError:
        return []
    common = [one for one in before.scores if one in after.scores]
    if not common:
        return []
    changes = np.array([after.scores[one] - before.scores[one] for one in common])
    if n == 1:
        with_the_mean = np.sort(np.abs(changes[changes * changes.mean() > 0]))
        wanted = with_the_mean[[(len(with_the_mean) - 1) // 2]] * np.sign(changes.mean()) if len(with_the_mean) else [0]
    else:
        wanted = np.quantile(changes, (np.arange(n) + 0.5) / n)
    places = dict.fromkeys(int(np.abs(changes - one).argmin()) for one in wanted)
    return [
        _example(common[place], (baseline.recipe, before, sides[0]), (recipe.recipe, after, sides[1]))
        for place in places
    ]


_Side = tuple[str, _Firsts, StoredEvaluation]


def _example(prompt: str, *sides: _Side) -> Example:
    said = [Answered(name, firsts.texts[prompt][1], firsts.scores[prompt]) for name, firsts, _ in sides]
    toxic = [
        one.score >= float(side[2].record.comparability.get("toxicity_threshold", math.inf))
        for one, side in zip(said, sides, strict=True)
    ]
    return Example(sides[0][1].texts[prompt][0], said[0], said[1], (toxic[0], toxic[1]))


def _firsts(evaluation: StoredEvaluation, scorer: str | None) -> _Firsts:
    import pyarrow.parquet as pq

    path, name = evaluation.path / COMPLETIONS_FILE, str(MetricKey("toxicity", scorer))
    if not path.exists():
        raise UnreadableError(f"no {path.name}")
    with readable(path):
        table = pq.ParquetFile(path).read(columns=[PROMPT_ID, "prompt", "completion", "sample", name])
        columns: list[Sequence[object]] = [
            table.column(one).to_pylist() for one in (PROMPT_ID, "prompt", "completion", "sample")
        ]
        scores: NDArray[np.float64] = floats(table.column(name))
    firsts = _Firsts({}, {})
    for prompt, text, completion, sample, score in zip(*columns, scores.tolist(), strict=True):
        if sample == 0 and math.isfinite(score):
            firsts.texts[str(prompt)] = str(text), str(completion)
            firsts.scores[str(prompt)] = score
    return firsts
