"""Completions and their rewards to preference pairs: the best completion of a prompt against its worst, or all pairs.

Pure: no model, no file. The rules, in order, for what `scored_completions` leaves:

1. Best against worst by reward, among equals the first drawn; or every two, the better against the worse. Rewards
   closer than float32 noise are a tie: no pair.
2. `min_margin`, then `max_length_ratio`; then a pair that repeats an earlier one is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from alignbench.errors import DataError
from alignbench.records import Completion, PreferencePair, Prompt
from datasets_prep.scored_completions import COUNTS, Scored, mean, scored_completions
from datasets_prep.settings import PairSettings

TIE_TOLERANCE = 1e-6
"""Rewards that differ by no more are equal: float32 classifiers move this much with the batch they score in."""
_DROPPED = {
    "n_dropped_too_few": ("had fewer than two different scored completions", "completions_per_prompt (raise it)"),
    "n_dropped_tie": ("had only equal rewards", "completions_per_prompt (raise it)"),
    "n_dropped_margin": ("had too small a margin", "min_margin (lower it)"),
    "n_dropped_length_ratio": ("had completions of too different length", "max_length_ratio (raise it)"),
    "n_dropped_repeated": ("repeated an earlier pair", "n_prompts (raise it)"),
}
"""Why a prompt gives no pair: statistic, words for it, the key that loosens it."""
_OPPOSED = "n_dropped_opposed"
"""Stored pairs whose preferred side has the lower score of the two."""


def build_pairs(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    rewards: Sequence[float | None],
    settings: PairSettings,
) -> tuple[list[PreferencePair], dict[str, int | float]]:
    """Builds at most one pair per prompt, or with `take: all` every one, in the order of the prompts.

    Args:
        prompts: Distinct prompts.
        completions: Completions of these prompts, in any order.
        rewards: The reward of each completion, higher is better; None where it could not be scored.
        settings: The `pairs:` block.

    Returns:
        The pairs, and statistics: `n_prompts`, `n_completions`, `n_unscored`, `n_blank`, `n_repeated_completions`,
        `n_pairs`, `n_dropped_*` (prompts without a pair, or pairs with `take: all`, by reason), `mean_margin`,
        `mean_chosen_tokens`, `mean_rejected_tokens`, `share_chosen_shorter`.

    Raises:
        ScorerError: A reward is NaN or infinite.
        DataError: No pair is left.
    """
    counts: Counter[str] = Counter()
    candidates = scored_completions(prompts, completions, rewards, counts)
    pairs: list[PreferencePair] = []
    seen: set[tuple[str, str, str]] = set()
    for prompt in prompts:
        if len(candidates[prompt.id]) < 2:
            counts["n_dropped_too_few"] += 1
            continue
        for pair in _pairs_of(prompt, candidates[prompt.id], settings):
            reason = _reason_to_drop(pair, settings, seen)
            if reason is not None:
                counts[reason] += 1
                continue
            seen.add((pair.prompt.text, pair.chosen.text, pair.rejected.text))
            pairs.append(pair)
    if not pairs:
        raise DataError(_no_pairs(counts))
    counts["n_pairs"] = len(pairs)
    names = (*COUNTS, "n_pairs", *_DROPPED)
    return pairs, {name: counts[name] for name in names} | _means(pairs)


def kept_pairs(
    pairs: Sequence[PreferencePair], settings: PairSettings
) -> tuple[list[PreferencePair], dict[str, int | float]]:
    """Returns those of stored pairs that `min_margin` and `max_length_ratio` leave, and statistics as of drawn ones.

    Raises:
        DataError: No pair is left.
    """
    counts: Counter[str] = Counter()
    kept = []
    for pair in pairs:
        is_opposed = pair.rejected_reward - pair.chosen_reward > TIE_TOLERANCE
        reason = _OPPOSED if is_opposed else _reason_to_drop(pair, settings, set())
        counts[reason or "n_pairs"] += 1
        kept += [] if reason else [pair]
    if not kept:
        words = {name: said for name, (said, _) in _DROPPED.items()} | {
            _OPPOSED: "had the lower score on the chosen side"
        }
        lost = ", ".join(f"{n} {words[name]}" for name, n in counts.items())
        advice = " Are pairs.chosen_column and pairs.rejected_column the right way round?" if counts[_OPPOSED] else ""
        raise DataError(f"pairs.source: none of {len(pairs)} stored pairs is left: {lost}.{advice}")
    return kept, {name: counts[name] for name in ("n_pairs", *_DROPPED, _OPPOSED)} | _means(kept)


def _pairs_of(prompt: Prompt, scored: Sequence[Scored], settings: PairSettings) -> list[PreferencePair]:
    """The pairs of two completions or more, better against worse, before any is dropped."""
    if settings.take == "all":
        found = list(combinations(sorted(scored, key=lambda item: -item[1]), 2))  # stable: equals as they were drawn
    else:
        found = [(max(scored, key=lambda item: item[1]), min(scored, key=lambda item: item[1]))]  # the first of equals
    return [PreferencePair(prompt, one, other, reward, less) for (one, reward), (other, less) in found]


def _reason_to_drop(pair: PreferencePair, settings: PairSettings, seen: set[tuple[str, str, str]]) -> str | None:
    margin = pair.chosen_reward - pair.rejected_reward
    if margin <= TIE_TOLERANCE:
        return "n_dropped_tie"
    if margin < settings.min_margin:
        return "n_dropped_margin"
    shorter, longer = sorted((pair.chosen.n_tokens, pair.rejected.n_tokens))
    if settings.max_length_ratio is not None and longer > settings.max_length_ratio * shorter:
        return "n_dropped_length_ratio"
    if (pair.prompt.text, pair.chosen.text, pair.rejected.text) in seen:
        return "n_dropped_repeated"
    return None


def _means(pairs: Sequence[PreferencePair]) -> dict[str, float]:
    return {
        "mean_margin": mean(pair.chosen_reward - pair.rejected_reward for pair in pairs),
        "mean_chosen_tokens": mean(pair.chosen.n_tokens for pair in pairs),
        "mean_rejected_tokens": mean(pair.rejected.n_tokens for pair in pairs),
        "share_chosen_shorter": mean(pair.chosen.n_tokens < pair.rejected.n_tokens for pair in pairs),
    }


def _no_pairs(counts: Counter[str]) -> str:
    lost = {name: counts[name] for name in _DROPPED if counts[name]}
    reasons = ", ".join(f"{n} {_DROPPED[name][0]}" for name, n in lost.items()) or "none given"
    advice = f" Look first at pairs.{_DROPPED[max(lost, key=lambda name: lost[name])][1]}." if lost else ""
    return (
        f"no preference pair came out of {counts['n_completions']} completions ({counts['n_unscored']} unscored, "
        f"{counts['n_blank']} blank) of {counts['n_prompts']} prompts: {reasons}.{advice}"
    )
