"""Demonstrations: the completions that a data set's rows hold, or those of a policy that their rewards choose.

No model is asked. A row's completion goes on with its prompt: where the prompt was cut (`data.prompt_tokens`), what was
cut off comes before it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from alignbench.errors import DataError
from alignbench.records import Completion, Demonstration, Prompt
from datasets_prep.answers import going_on, ids_of_rows, read_answered
from datasets_prep.columns import cell, find_column, missing
from datasets_prep.rows import Row, faults_error, place, shown
from datasets_prep.scored_completions import COUNTS, mean, scored_completions
from datasets_prep.settings import ColumnMapping, DemonstrationSettings, PromptSettings

COMPLETION_COLUMNS = ("continuation.text", "completion", "response", "answer", "continuation", "messages")
TOXICITY_COLUMNS = ("continuation.toxicity", "completion_toxicity")


def choose_demonstrations(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    rewards: Sequence[float | None],
    settings: DemonstrationSettings,
) -> tuple[list[Demonstration], dict[str, int | float]]:
    """Chooses among drawn completions by their rewards, in the order of the prompts and of their draws.

    Args:
        prompts: Distinct prompts.
        completions: Completions of these prompts, in any order.
        rewards: The reward of each completion, higher is better; None where it could not be scored.
        settings: The `demonstrations:` block. Of equal rewards the completion drawn first is the best, and the worst.

    Returns:
        The demonstrations, and statistics: those of `scored_completions`, `n_outside_rewards` (completions below
        `min_reward` or above `max_reward`), `n_demonstrations`, `mean_reward`.

    Raises:
        ScorerError: A reward is NaN or infinite.
        DataError: No completion is left.
    """
    counts: Counter[str] = Counter()
    chosen: list[tuple[Demonstration, float]] = []
    scored = scored_completions(prompts, completions, rewards, counts)
    for prompt in prompts:
        inside = [one for one in scored[prompt.id] if settings.holds_reward(one[1])]
        counts["n_outside_rewards"] += len(scored[prompt.id]) - len(inside)
        if inside and settings.take == "best":
            inside = [max(inside, key=lambda item: item[1])]  # max and min give the first of equals
        elif inside and settings.take == "worst":
            inside = [min(inside, key=lambda item: item[1])]
        chosen += [(Demonstration(prompt, completion), reward) for completion, reward in inside]
    if not chosen:
        raise DataError(
            f"demonstrations: none of {len(completions)} completions is left: {counts['n_unscored']} have no score, "
            f"{counts['n_blank']} are blank, {counts['n_outside_rewards']} are outside of demonstrations.min_reward "
            "and max_reward"
        )
    numbers = {"n_demonstrations": len(chosen), "mean_reward": mean(reward for _, reward in chosen)}
    return [one for one, _ in chosen], {**{name: counts[name] for name in (*COUNTS, "n_outside_rewards")}, **numbers}


def read_demonstrations(
    settings: PromptSettings,
    own: DemonstrationSettings,
    prompts: Sequence[Prompt],
    *,
    key: str,
    conversations: bool = False,
) -> tuple[list[tuple[Prompt, str]], dict[str, int | float]]:
    """Reads how the rows of a source go on with some prompts.

    Args:
        settings: Names the source (`prompts`) and its columns.
        own: The `demonstrations:` block.
        prompts: Prompts of that source, perhaps cut, by the ids that preparation gives them.
        key: The recipe key that names the source, for messages.
        conversations: True where a prompt may be a list of messages.

    Returns:
        Prompts and the texts that go on with them, in the order of the prompts, several of one prompt in that of its
        rows; and statistics: `n_rows`, `n_empty`, `n_outside_toxicity`, `n_of_other_prompts` (rows of another split, or
        that preparation has left out), `n_uncuttable` (the prompt is no beginning of its row), `n_repeated`.

    Raises:
        DataError: A column is missing, a completion is no text, or no demonstration is left.
    """
    rows = read_completions(settings, own, key=key, conversations=conversations)
    counts: Counter[str] = Counter(n_rows=len(rows))
    id_of, of_prompt = ids_of_rows(prompts), defaultdict[str, list[tuple[Prompt, str]]](list)
    for uncut, text, toxicity in rows:
        if not text.strip():
            counts["n_empty"] += 1
        elif not _is_inside(toxicity, own):
            counts["n_outside_toxicity"] += 1
        elif (prompt_id := id_of(uncut)) is None:
            counts["n_of_other_prompts"] += 1
        else:
            of_prompt[prompt_id].append((uncut, text))
    found: dict[tuple[str, str], tuple[Prompt, str]] = {}
    for prompt in prompts:
        for uncut, text in of_prompt[prompt.id]:
            whole = going_on(prompt, uncut, text, settings.template, in_chat=conversations)
            if whole is None:
                counts["n_uncuttable"] += 1
                continue
            counts["n_repeated"] += (prompt.id, whole) in found
            found.setdefault((prompt.id, whole), (prompt, whole))
    if not found:
        reasons = ", ".join(f"{name} {n}" for name, n in counts.items() if n)
        raise DataError(
            f"{key}: {settings.prompts}: no demonstration is left ({reasons}). Look first at demonstrations.column."
        )
    names = ("n_rows", "n_empty", "n_outside_toxicity", "n_of_other_prompts", "n_uncuttable", "n_repeated")
    return list(found.values()), {name: counts[name] for name in names}


def read_completions(
    settings: PromptSettings, own: DemonstrationSettings, *, key: str, conversations: bool = False
) -> list[tuple[Prompt, str, float | None]]:
    """Returns the uncut prompt, the completion ("": none) and the completion's toxicity of every row of a source.

    Arguments and errors are those of `read_demonstrations`; the toxicity is looked at where it is asked for.
    """
    hidden = ColumnMapping(prompt=own.column or COMPLETION_COLUMNS[0], toxicity=own.toxicity_column)
    read = read_answered(settings, [hidden], key=key, conversations=conversations)
    usual = ("messages", *COMPLETION_COLUMNS) if read.in_messages else COMPLETION_COLUMNS
    texts = read.completions(own.column, usual, "completion", "demonstrations.column")
    return list(zip(read.prompts, texts, _toxicities(read.rows, own, read.origin), strict=True))


def _toxicities(rows: Sequence[Row], own: DemonstrationSettings, origin: str) -> list[float | None]:
    """The stated toxicity of each completion; None where there is none."""
    column = find_column(rows, own.toxicity_column, TOXICITY_COLUMNS)
    is_asked = own.min_toxicity is not None or own.max_toxicity is not None
    if column is None and (is_asked or own.toxicity_column is not None):
        option = "demonstrations.toxicity_column"
        raise missing(rows, "toxicity", own.toxicity_column, TOXICITY_COLUMNS, origin, option)
    if column is None or not is_asked:
        return [None] * len(rows)
    toxicities, faults = [], []
    for index, row in enumerate(rows):
        value = cell(row, column)
        try:
            number = None if value is None or value == "" else float(value)
        except (TypeError, ValueError):
            number = math.inf
        if number is not None and math.isnan(number):
            number = None
        if number is not None and not 0.0 <= number <= 1.0:
            where = f"{place(rows, index)}: column {column!r}"
            faults.append(f"{where} holds {shown(value)}, expected a toxicity from 0 to 1")
        toxicities.append(number)
    if faults:
        raise faults_error(origin, faults, "Name another column with demonstrations.toxicity_column.")
    return toxicities


def _is_inside(toxicity: float | None, own: DemonstrationSettings) -> bool:
    if own.min_toxicity is None and own.max_toxicity is None:
        return True
    lowest = 0.0 if own.min_toxicity is None else own.min_toxicity
    highest = 1.0 if own.max_toxicity is None else own.max_toxicity
    return toxicity is not None and lowest <= toxicity <= highest
