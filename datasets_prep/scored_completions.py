"""Which of the drawn completions can be learned from.

Unscored and blank ones take no part: nothing can be preferred in them, and a blank one would teach silence. Completions
of one prompt with the same text are one completion, the first drawn.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from alignbench.errors import ScorerError
from alignbench.records import Completion, Prompt

Scored = tuple[Completion, float]
COUNTS = ("n_prompts", "n_completions", "n_unscored", "n_blank", "n_repeated_completions")
"""What is counted of them."""


def scored_completions(
    prompts: Sequence[Prompt], completions: Sequence[Completion], rewards: Sequence[float | None], counts: Counter[str]
) -> Mapping[str, list[Scored]]:
    """Returns, for each prompt id, the different scored completions in the order of their drawing.

    Args:
        prompts: Distinct prompts.
        completions: Completions of these prompts, in any order.
        rewards: The reward of each completion, higher is better; None where it could not be scored.
        counts: Takes in `COUNTS`.

    Raises:
        ScorerError: A reward is NaN or infinite.
    """
    counts.update(n_prompts=len(prompts), n_completions=len(completions))
    candidates: dict[str, list[Scored]] = {prompt.id: [] for prompt in prompts}
    if len(candidates) != len(prompts):
        raise ValueError("prompts must have distinct ids")
    for completion, reward in zip(completions, rewards, strict=True):
        if completion.prompt_id not in candidates:
            raise ValueError(f"a completion of prompt {completion.prompt_id!r}, which is not among the prompts")
        if reward is None:
            counts["n_unscored"] += 1
        elif not math.isfinite(reward):
            raise ScorerError(
                f"the reward of sample {completion.sample} of prompt {completion.prompt_id!r} is {reward}, expected "
                f"a finite number or None. The completion is {completion.text[:80]!r}."
            )
        elif not completion.text.strip():
            counts["n_blank"] += 1
        else:
            candidates[completion.prompt_id].append((completion, reward))
    for prompt_id, scored in candidates.items():
        first: dict[str, Scored] = {}
        for completion, reward in sorted(scored, key=lambda item: item[0].sample):
            first.setdefault(completion.text.strip(), (completion, reward))
        candidates[prompt_id] = list(first.values())
        counts["n_repeated_completions"] += len(scored) - len(first)
    return candidates


def mean(values: Iterable[float]) -> float:
    """Returns the mean of one number at least."""
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)
