"""The stored completions of a recipe: their scores, and the texts of some of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignbench.comparison.pooling import RecipeRuns
from alignbench.records import MetricKey
from alignbench.results.layout import COMPLETIONS_FILE, PROMPT_ID
from alignbench.results.parquet import floats, readable
from alignbench.results.reader import StoredEvaluation
from alignbench.results.schema import UnreadableError

SCORE = "toxicity@"
"""How the columns of scores begin."""


def scores(runs: RecipeRuns, key: MetricKey) -> NDArray[np.float64]:
    """Returns the scores of all completions of all seeds by one scorer, unscored ones left out: (completions,).

    Empty where a seed has none stored, or its file is damaged.
    """
    name = f"{SCORE}{key.scorer}"
    found = []
    for _, evaluation in runs.runs:
        with suppress(UnreadableError):
            found.append(_columns(evaluation.path, [name])[name])
    if not found or len(found) < len(runs.runs):
        return np.empty(0)
    values: NDArray[np.float64] = np.concatenate([floats(column) for column in found])
    return values[np.isfinite(values)]


def texts(
    evaluation: StoredEvaluation, prompt_ids: Collection[str], scorers: Sequence[str]
) -> list[tuple[str, str, str, tuple[float, ...]]]:
    """Returns the first completion of each of some prompts: prompt id, prompt, completion, scores (NaN: unscored).

    UnreadableError where the file is missing or damaged.
    """
    names = [f"{SCORE}{scorer}" for scorer in scorers]
    wanted = set(prompt_ids)
    columns = _columns(evaluation.path, [PROMPT_ID, "sample", "prompt", "completion", *names])
    with readable(evaluation.path / COMPLETIONS_FILE):
        ids = list(map(str, columns[PROMPT_ID].to_pylist()))
        places = [i for i, sample in enumerate(columns["sample"].to_pylist()) if sample == 0 and ids[i] in wanted]
        scored = [floats(columns[name]) for name in names]
        prompts, completions = columns["prompt"], columns["completion"]
        return [
            (ids[i], _text(prompts[i]), _text(completions[i]), tuple(float(one[i]) for one in scored)) for i in places
        ]


def _columns(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Returns columns of the stored completions. Without pandas, which takes longer to load than these to read."""
    import pyarrow.parquet as pq

    path = folder / COMPLETIONS_FILE
    if not path.exists():
        raise UnreadableError(f"no {path.name}")
    with readable(path):
        table = pq.ParquetFile(path).read(columns=list(names))
        return {name: table.column(name) for name in names}


def _text(cell: Any) -> str:
    """Returns a text; bytes that are no UTF-8 are written out as `\\xff`, and what is missing is empty."""
    buffer = cell.as_buffer()
    return "" if buffer is None else buffer.to_pybytes().decode("utf-8", "backslashreplace")
