"""Completions and their rewards to rankings: all different completions of a prompt, the best first.

Pure: no model, no file. What `scored_completions` leaves is ranked; a prompt whose completions are all equally good, or
that has one alone, ranks nothing and takes no part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from alignbench.errors import DataError
from alignbench.records import Completion, Prompt, RankedCompletions
from datasets_prep.preference_pairs import TIE_TOLERANCE
from datasets_prep.scored_completions import COUNTS, Scored, mean, scored_completions


def rank_completions(
    prompts: Sequence[Prompt], completions: Sequence[Completion], rewards: Sequence[float | None]
) -> tuple[list[RankedCompletions], dict[str, int | float]]:
    """Ranks the scored completions of every prompt, in the order of the prompts.

    Rewards closer than float32 noise are equal; of equal ones the first drawn comes first.

    Args:
        prompts: Distinct prompts.
        completions: Completions of these prompts, in any order.
        rewards: The reward of each completion, higher is better; None where it could not be scored.

    Returns:
        The rankings, and statistics: those of `scored_completions`, `n_ranked` (prompts), `n_dropped_too_few`,
        `n_dropped_tie`, `mean_ranked` (completions of a prompt) and `mean_range` (best reward less worst).

    Raises:
        ScorerError: A reward is NaN or infinite.
        DataError: No prompt is left.
    """
    counts: Counter[str] = Counter()
    scored = scored_completions(prompts, completions, rewards, counts)
    ranked, ranges = [], []
    for prompt in prompts:
        ordered = sorted(scored[prompt.id], key=lambda item: -item[1])  # stable: the first drawn of equals
        ranks = _ranks(ordered)
        if len(ordered) < 2 or ranks[-1] == 0:
            counts["n_dropped_too_few" if len(ordered) < 2 else "n_dropped_tie"] += 1
            continue
        ranked.append(RankedCompletions(prompt, tuple(one for one, _ in ordered), ranks))
        ranges.append(ordered[0][1] - ordered[-1][1])
    if not ranked:
        raise DataError(
            f"no prompt of {counts['n_prompts']} has completions that can be ranked: {counts['n_dropped_too_few']} "
            f"have fewer than two different scored ones, {counts['n_dropped_tie']} only equal rewards. Look first at "
            "pairs.completions_per_prompt (raise it)."
        )
    names = (*COUNTS, "n_dropped_too_few", "n_dropped_tie")
    return ranked, {
        **{name: counts[name] for name in names},
        "n_ranked": len(ranked),
        "mean_ranked": mean(len(one.completions) for one in ranked),
        "mean_range": mean(ranges),
    }


def _ranks(ordered: Sequence[Scored]) -> tuple[int, ...]:
    """0 for the best, one more wherever the reward falls."""
    ranks = [0] * len(ordered)
    for i in range(1, len(ordered)):
        ranks[i] = ranks[i - 1] + (ordered[i - 1][1] - ordered[i][1] > TIE_TOLERANCE)
    return tuple(ranks)
