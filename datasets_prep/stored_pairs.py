"""Preference pairs that a data set holds: two texts that go on with a prompt, the first one preferred.

No model is asked. A side goes on with its prompt as a demonstration does; where the prompt was cut, what was cut off
comes first on both sides.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from alignbench.errors import DataError
from alignbench.records import Prompt
from datasets_prep.answers import Answered, going_on, ids_of_rows, read_answered
from datasets_prep.columns import cell, find_column
from datasets_prep.rows import faults_error, place, shown
from datasets_prep.settings import ColumnMapping, PairSettings, PromptSettings

SCORE_COLUMNS = {"chosen": ("score_chosen", "chosen_score"), "rejected": ("score_rejected", "rejected_score")}
_COUNTED = ("n_rows", "n_empty", "n_equal", "n_of_other_prompts", "n_uncuttable", "n_repeated")


@dataclass(frozen=True, slots=True)
class StoredPair:
    """A pair as text."""

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_reward: float
    """What the data say of it; 1 and 0 where they say nothing but which one is preferred."""
    rejected_reward: float


def read_stored_pairs(
    settings: PromptSettings, own: PairSettings, prompts: Sequence[Prompt], *, key: str, conversations: bool = False
) -> tuple[list[StoredPair], dict[str, int | float]]:
    """Reads the pairs of some prompts.

    Args:
        settings: Names the source (`prompts`) and its columns.
        own: The `pairs:` block.
        prompts: Prompts of that source, perhaps cut, by the ids that preparation gives them.
        key: The recipe key that names the source, for messages.
        conversations: True where a prompt may be a list of messages.

    Returns:
        The pairs in the order of the prompts, and statistics: `n_rows`, `n_empty` (a side has no text), `n_equal` (both
        have the same), `n_of_other_prompts` (prompts that preparation has left out), `n_uncuttable` (the prompt is no
        beginning of its row), `n_repeated`.

    Raises:
        DataError: A column is missing, a side is no text, a score is no number, or no pair is left.
    """
    rows = read_sides(settings, own, key=key, conversations=conversations)
    counts: Counter[str] = Counter(n_rows=len(rows))
    id_of, of_prompt = ids_of_rows(prompts), defaultdict[str, list[StoredPair]](list)
    for row in rows:
        if not (row.chosen.strip() and row.rejected.strip()):
            counts["n_empty"] += 1
        elif row.chosen.strip() == row.rejected.strip():
            counts["n_equal"] += 1
        elif (prompt_id := id_of(row.prompt)) is None:
            counts["n_of_other_prompts"] += 1
        else:
            of_prompt[prompt_id].append(row)
    found: dict[tuple[str, str, str], StoredPair] = {}
    for prompt in prompts:
        for row in of_prompt[prompt.id]:
            chosen, rejected = (
                going_on(prompt, row.prompt, side, settings.template, in_chat=conversations)
                for side in (row.chosen, row.rejected)
            )
            if chosen is None or rejected is None:
                counts["n_uncuttable"] += 1
                continue
            counts["n_repeated"] += (prompt.id, chosen, rejected) in found
            pair = StoredPair(prompt, chosen, rejected, row.chosen_reward, row.rejected_reward)
            found.setdefault((prompt.id, chosen, rejected), pair)
    if not found:
        reasons = ", ".join(f"{name} {n}" for name, n in counts.items() if n)
        raise DataError(f"{key}: {settings.prompts}: no pair is left ({reasons}). Look first at pairs.chosen_column.")
    return list(found.values()), {name: counts[name] for name in _COUNTED}


def read_sides(
    settings: PromptSettings, own: PairSettings, *, key: str, conversations: bool = False
) -> list[StoredPair]:
    """Returns both sides of every row of a source, with the uncut prompt; arguments and errors as above."""
    sides = {"chosen": own.chosen_column, "rejected": own.rejected_column}
    nested = [ColumnMapping(prompt=column or side) for side, column in sides.items()]
    read = read_answered(settings, nested, key=key, conversations=conversations)
    chosen, rejected = (
        read.completions(column, (side,), side, f"pairs.{side}_column") for side, column in sides.items()
    )
    scores = (_scores(read, side, default) for side, default in (("chosen", 1.0), ("rejected", 0.0)))
    return [StoredPair(*row) for row in zip(read.prompts, chosen, rejected, *scores, strict=True)]


def _scores(read: Answered, side: str, default: float) -> list[float]:
    """What the data say of each side; the default where not both sides have a column."""
    columns = [find_column(read.rows, None, usual) for usual in SCORE_COLUMNS.values()]
    column = columns[list(SCORE_COLUMNS).index(side)]
    if column is None or None in columns:
        return [default] * len(read.rows)
    scores, faults = [], []
    for index, row in enumerate(read.rows):
        value = cell(row, column)
        try:
            score = float(value)
        except (TypeError, ValueError):
            score = math.nan
        if not math.isfinite(score):
            faults.append(f"{place(read.rows, index)}: column {column!r} holds {shown(value)}, expected a number")
        scores.append(score)
    if faults:
        raise faults_error(read.origin, faults)
    return scores
