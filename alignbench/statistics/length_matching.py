"""A difference at equal length: what is left of a gain once the lengths of completions are held at the baseline's.

Direct standardisation, as for death rates of populations of unequal age (Fleiss, Levin and Paik, Statistical Methods
for Rates and Proportions, 3rd ed. 2003, chapter 19). All completions of both sides are binned by length; with y_b the
mean score of a side in bin b, and n_b the baseline's completions there,

    difference = sum_b n_b (y_b - baseline y_b) / sum_b n_b,      over the bins in which both sides have completions,
    share      = sum_b n_b / all completions of the baseline.

The interval draws prompts, or groups of variants of one text, with replacement (9,999 times, percentiles), the same
ones for both sides, and computes all of it anew, weights included; the bins stay. Within a bin lengths still differ,
and part of their effect stays in the difference; so bins get narrower as data grow, faster than the interval does: one
per forty completions of both sides but no fewer than twenty, and never narrower than one length. It answers for these
runs, like every interval over prompts, and it is no cause: texts of one length may differ for other reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from alignbench.statistics.estimate import ALPHA, Estimate
from alignbench.statistics.prompt_means import MIN_PROMPTS

N_RESAMPLES = 9999
MIN_BINS = 20
COMPLETIONS_PER_BIN = 40
MAX_LOST = 0.01
"""Share of resamples that may be left without a single common bin; beyond, there is no interval."""
_SEED = 20_232
_BLOCK = 1 << 22
_MOST_KEPT = 4096
"""Prompts of which all resamples are kept: 80 MB."""
_AT_ONCE = 1000
_ROUNDING = 1e-12

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ScoredTexts:
    """Completions of one side, all seeds pooled."""

    prompts: Integers
    """(completions,), the place of each one's prompt or group of prompts, the same numbering on both sides."""
    lengths: Integers
    """(completions,), tokens."""
    scores: Floats
    """(completions, columns), NaN where unscored."""


@dataclass(frozen=True, slots=True)
class LengthMatched:
    """A difference at equal length."""

    difference: Estimate
    share: float | None
    """Of the baseline's completions, those in bins where both sides have some."""


def length_bins(lengths: Integers) -> Integers:
    """Returns the upper ends of the bins, with about as many completions in each; the last one is open."""
    n_bins = max(MIN_BINS, len(lengths) // COMPLETIONS_PER_BIN)
    ends = np.unique(np.quantile(lengths, np.arange(1, n_bins) / n_bins, method="inverted_cdf"))
    found = np.unique(lengths)
    narrow = found[:-1] if len(found) <= n_bins else ends[ends < found[-1]]
    return np.asarray(narrow, dtype=np.int64)


def length_matched(texts: ScoredTexts, baseline: ScoredTexts) -> list[LengthMatched]:
    """Returns one difference, texts minus baseline, per column of scores.

    A completion without a score is left out of that column. Where no bin holds completions of both sides the
    difference is None, with the reason.
    """
    n_columns = texts.scores.shape[1]
    if not len(texts.lengths) or not len(baseline.lengths):
        return [LengthMatched(Estimate(None, reason="one side has no completions"), None)] * n_columns
    ends = length_bins(np.concatenate([texts.lengths, baseline.lengths]))
    n_prompts = int(max(texts.prompts.max(), baseline.prompts.max())) + 1
    sides = np.stack([_tables(side, ends, n_prompts) for side in (texts, baseline)])
    sums = sides.sum(axis=2, keepdims=True)
    differences, shares = _standardised(sums[:, 0], sums[:, 1])
    n_common = (sides[:, 0].sum(axis=3) > 0).all(axis=0).sum(axis=0)
    drawn = _resampled(sides) if (n_common >= MIN_PROMPTS).any() else np.empty((0, n_columns))
    return [
        LengthMatched(_estimate(float(differences[0, j]), drawn[:, j], int(n_common[j])), float(shares[0, j]))
        for j in range(n_columns)
    ]


def _tables(side: ScoredTexts, ends: Integers, n_prompts: int) -> Floats:
    """Returns numbers of scored completions and sums of their scores, (2, prompts, columns, bins)."""
    n_bins = len(ends) + 1
    places = side.prompts * n_bins + np.searchsorted(ends, side.lengths, side="left")
    tables = np.zeros((2, n_prompts, side.scores.shape[1], n_bins))
    for j, column in enumerate(side.scores.T):
        scored = np.isfinite(column)
        for table, weights in zip(tables, (None, column[scored]), strict=True):
            found = np.bincount(places[scored], weights, minlength=n_prompts * n_bins)
            table[:, j] = found.reshape(n_prompts, n_bins)
    return tables


def _standardised(numbers: Floats, sums: Floats) -> tuple[Floats, Floats]:
    """Returns differences, NaN without a common bin, and shares, (rows, columns) each.

    Args:
        numbers: (texts and baseline, rows, columns, bins); a single column is that of all.
        sums: (texts and baseline, rows, columns, bins).
    """
    (n, n_baseline), (total, total_baseline) = numbers, sums
    common = (n > 0) & (n_baseline > 0)
    gaps = np.where(common, total / np.maximum(n, 1) - total_baseline / np.maximum(n_baseline, 1), 0.0)
    covered = np.where(common, n_baseline, 0.0).sum(axis=-1)
    weighted = (gaps * n_baseline).sum(axis=-1)
    differences = np.divide(weighted, covered, out=np.full(weighted.shape, np.nan), where=covered > 0)
    return differences, covered / np.maximum(n_baseline.sum(axis=-1), 1)


def _resampled(sides: Floats) -> Floats:
    """Returns the differences of resampled prompts, (resamples, columns)."""
    n_prompts, n_columns, n_bins = sides.shape[2:]
    numbers, sums = sides[:, 0], sides[:, 1]
    if (numbers == numbers[:, :, :1]).all():
        numbers = numbers[:, :, :1]  # every scorer has scored every text
    rng, drawn = np.random.default_rng(_SEED), np.empty((N_RESAMPLES, n_columns))
    step = max(1, _BLOCK // (n_prompts + 4 * n_columns * n_bins))
    is_kept = n_prompts <= _MOST_KEPT
    for start in range(0, N_RESAMPLES, step):
        stop = min(N_RESAMPLES, start + step)
        counts = _counts(n_prompts)[start:stop] if is_kept else _draw_counts(rng, stop - start, n_prompts)
        times = counts.astype(np.float64)
        both = (times @ one.reshape(2, n_prompts, -1) for one in (numbers, sums))
        drawn[start:stop] = _standardised(*(one.reshape(2, stop - start, -1, n_bins) for one in both))[0]
    return drawn


def _draw_counts(rng: np.random.Generator, n_resamples: int, n_prompts: int) -> NDArray[np.int16]:
    """Returns how often each prompt is drawn in each resample, (resamples, prompts), rows summing to `n_prompts`."""
    drawn = rng.integers(0, n_prompts, size=(n_resamples, n_prompts))
    drawn += np.arange(n_resamples)[:, None] * n_prompts
    counts = np.bincount(drawn.ravel(), minlength=n_resamples * n_prompts)
    return counts.reshape(n_resamples, n_prompts).astype(np.int16)


@lru_cache(maxsize=1)
def _counts(n_prompts: int) -> NDArray[np.int16]:
    """Returns the counts of all resamples, the same ones for every recipe of a table."""
    rng = np.random.default_rng(_SEED)
    starts = range(0, N_RESAMPLES, _AT_ONCE)
    return np.concatenate([_draw_counts(rng, min(_AT_ONCE, N_RESAMPLES - one), n_prompts) for one in starts])


def _estimate(difference: float, drawn: Floats, n_prompts: int) -> Estimate:
    if np.isnan(difference):
        return Estimate(None, n=n_prompts, reason="no length is common to both sides")
    if n_prompts < MIN_PROMPTS:
        return Estimate(
            difference, n=n_prompts, reason=f"{n_prompts} measured prompts, an interval needs {MIN_PROMPTS}"
        )
    kept = np.sort(drawn[np.isfinite(drawn)])
    if len(kept) < (1 - MAX_LOST) * len(drawn):
        return Estimate(
            difference, n=n_prompts, reason="too few completions have a length that is common to both sides"
        )
    rank = round((len(kept) + 1) * ALPHA / 2)
    low, high = float(kept[rank - 1]), float(kept[-rank])
    if high - low <= _ROUNDING * max(1.0, abs(difference)):
        return Estimate(difference, n=n_prompts, reason="the same value in every resample")
    return Estimate(difference, low, high, n_prompts)
