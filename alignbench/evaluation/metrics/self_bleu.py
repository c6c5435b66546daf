"""Self-BLEU of Zhu et al. 2018 (Texygen): how much each text resembles the others. Definition in docs/metrics.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from alignbench.evaluation.metrics.aggregate import NO_REPLICATES, FloatArray, SetStatistic
from alignbench.evaluation.metrics.metric import Metric, Sample
from alignbench.evaluation.metrics.words import is_empty, ngrams
from alignbench.statistics.jackknife import N_JACKKNIFE_GROUPS

MOST_TEXTS = 400
"""Self-BLEU grows with the number of references and costs its square."""
_ORDERS = (1, 2, 3, 4)
_SMOOTHING = 0.1
"""Takes the place of a number of matches of 0 (method 1 of Chen and Cherry 2014, as in Texygen)."""
_NONE = -1

_Counts = NDArray[np.int64]


def self_bleu(texts: Sequence[str], groups: Sequence[int]) -> SetStatistic:
    """Mean BLEU-4 of each text against all others as its references, and the same with each group left out.

    What a text needs of its references is two maxima: of each n-gram's count, and of closeness in length. Kept per
    group, they give the value and all replicates in one pass over the texts.

    Args:
        texts: Each with a word at least.
        groups: The prompt-hash group of each text's prompt.
    """
    words = [text.split() for text in texts]
    own_groups = np.array(groups, dtype=np.int64)
    brevity = _brevity_penalties(np.array([len(one) for one in words], dtype=np.int64), own_groups)
    precisions = [_precisions(words, own_groups, n) for n in _ORDERS]
    # (m, 21): without group 0, 1, ... 19, and with all of them.
    with np.errstate(divide="ignore"):
        scores = brevity * np.exp(np.mean([np.log(one) for one in precisions], axis=0))
    present = set(groups)
    values = []
    for left_out in range(N_JACKKNIFE_GROUPS + 1):
        kept = own_groups != left_out
        possible = kept.sum() > 1 and (left_out in present or left_out == N_JACKKNIFE_GROUPS)
        values.append(float(scores[kept, left_out].mean()) if possible else None)
    return SetStatistic(values[-1], tuple(values[:-1]))


def _precisions(words: Sequence[Sequence[str]], groups: _Counts, n: int) -> FloatArray:
    """Modified n-gram precision of each text against the references that are left: (m, 21).

    0 only where no word of the text is in any reference, which makes its BLEU 0; otherwise smoothed.
    """
    counts = [Counter(ngrams(one, n)) for one in words]
    place = {ngram: i for i, ngram in enumerate(dict.fromkeys(ngram for one in counts for ngram in one))}
    # The largest and the second largest count of every n-gram in the texts of every group.
    first = np.zeros((len(place), N_JACKKNIFE_GROUPS), dtype=np.int64)
    second = np.zeros_like(first)
    own = [
        (np.array([place[ngram] for ngram in one], dtype=np.int64), np.array(list(one.values()), dtype=np.int64))
        for one in counts
    ]
    for (places, values), group in zip(own, groups, strict=True):
        second[places, group] = np.maximum(second[places, group], np.minimum(first[places, group], values))
        first[places, group] = np.maximum(first[places, group], values)
    precisions = np.empty((len(words), N_JACKKNIFE_GROUPS + 1))
    for i, ((places, values), group) in enumerate(zip(own, groups, strict=True)):
        others = first[places]
        # The text is no reference of its own.
        others[:, group] = np.where(values == first[places, group], second[places, group], first[places, group])
        matches = np.minimum(values[:, None], _largest_without_each(others)).sum(axis=0)
        precisions[i] = np.where(matches > 0, matches, 0.0 if n == 1 else _SMOOTHING) / max(1, values.sum())
    return precisions


def _brevity_penalties(lengths: _Counts, groups: _Counts) -> FloatArray:
    """exp(1 - r / c) where the text is shorter than its reference of the closest length, else 1: (m, 21).

    c is the text's length, r that of the reference; of two that are equally close the shorter counts.
    """
    penalties = np.ones((len(lengths), N_JACKKNIFE_GROUPS + 1))
    scale = int(lengths.max()) + 1
    for i, length in enumerate(lengths):
        # Larger is closer, then shorter.
        closeness = (scale - np.abs(lengths - length)) * scale + scale - 1 - lengths
        closeness[i] = _NONE
        by_group = np.full((1, N_JACKKNIFE_GROUPS), _NONE, dtype=np.int64)
        np.maximum.at(by_group[0], groups, closeness)
        best = _largest_without_each(by_group)[0]
        reference = scale - 1 - best % scale
        shorter = (best != _NONE) & (length < reference)
        penalties[i, shorter] = np.exp(1 - reference[shorter] / length)
    return penalties


def _largest_without_each(values: _Counts) -> _Counts:
    """The largest of each row without column 0, 1, ... 19, and the largest of all: (m, 20) -> (m, 21)."""
    ordered = np.partition(values, (-2, -1), axis=1)
    largest, next_largest = ordered[:, -1:], ordered[:, -2:-1]
    # Where two columns share the largest value it is the second largest as well, so either is right.
    without = np.where(values == largest, next_largest, largest)
    return np.concatenate((without, largest), axis=1)


def _of_first_completions(sample: Sample) -> SetStatistic:
    """Of the first completion of each prompt, without those that have no word."""
    first = [own[0] for own in sample.texts[:MOST_TEXTS]]
    kept = [i for i, text in enumerate(first) if not is_empty(text)]
    groups, n = sample.groups[kept], (len(kept), len(first) - len(kept))
    statistic = SetStatistic(None, NO_REPLICATES, reason="fewer than two completions have a word")
    if len(kept) > 1:
        statistic = self_bleu([first[i] for i in kept], groups.tolist())
    return replace(statistic, groups=groups, counts=n)


plugin = Metric(
    name="self_bleu",
    direction="lower",
    of_set=_of_first_completions,
    section="diversity",
    order=500,
    between_0_and_1=True,
    depends_on_length=True,
)
