"""Completions and their rewards to labelled completions: wanted from a reward on, unwanted below it.

Pure: no model, no file. What `scored_completions` leaves is labelled; the threshold is the recipe's, or the median.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from alignbench.errors import DataError
from alignbench.records import Completion, LabelledCompletion, Prompt
from datasets_prep.scored_completions import COUNTS, mean, scored_completions
from datasets_prep.settings import LabelledCompletionSettings


def label_completions(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    rewards: Sequence[float | None],
    settings: LabelledCompletionSettings,
    *,
    both_kinds: bool = True,
) -> tuple[list[LabelledCompletion], dict[str, int | float]]:
    """Labels every scored completion, in the order of the prompts and of their draws.

    Args:
        prompts: Distinct prompts.
        completions: Completions of these prompts, in any order.
        rewards: The reward of each completion, higher is better; None where it could not be scored.
        settings: The `labelled_completions:` block.
        both_kinds: False where rewards alone will be read, and one label for all does no harm.

    Returns:
        The labelled completions, and statistics: those of `scored_completions`, `n_wanted`, `n_unwanted`,
        `wanted_from` (the threshold), `mean_wanted_reward` and `mean_unwanted_reward` where there are any.

    Raises:
        ScorerError: A reward is NaN or infinite.
        DataError: All completions would have the same label, or none is left.
    """
    counts: Counter[str] = Counter()
    scored = scored_completions(prompts, completions, rewards, counts)
    found = [reward for of_prompt in scored.values() for _, reward in of_prompt]
    if not found:
        raise DataError(
            f"labelled_completions: none of {len(completions)} completions can be labelled: {counts['n_unscored']} "
            f"have no score and {counts['n_blank']} are blank"
        )
    threshold = statistics.median(found) if settings.wanted_from is None else settings.wanted_from
    labelled = [
        LabelledCompletion(prompt, completion, reward >= threshold, reward)
        for prompt in prompts
        for completion, reward in scored[prompt.id]
    ]
    wanted = [one.reward for one in labelled if one.is_wanted]
    unwanted = [one.reward for one in labelled if not one.is_wanted]
    if both_kinds and not (wanted and unwanted):
        raise DataError(
            f"labelled_completions.wanted_from: got {threshold:g}, expected a reward that some of the {len(found)} "
            f"completions reach and others do not; theirs go from {min(found):g} to {max(found):g}"
        )
    means = {"mean_wanted_reward": wanted, "mean_unwanted_reward": unwanted}
    numbers = {"wanted_from": threshold} | {name: mean(rewards) for name, rewards in means.items() if rewards}
    return labelled, {
        **{name: counts[name] for name in COUNTS},
        "n_wanted": len(wanted),
        "n_unwanted": len(unwanted),
        **numbers,
    }
