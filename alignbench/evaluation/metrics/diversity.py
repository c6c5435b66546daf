"""Diversity of texts, in words split at white space. Formulas and sources in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from alignbench.evaluation.metrics.aggregate import FloatArray, SetStatistic
from alignbench.evaluation.metrics.metric import Metric, Sample
from alignbench.evaluation.metrics.words import LENGTHS, ngrams
from alignbench.statistics.jackknife import N_JACKKNIFE_GROUPS

_SEVERAL = -1


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Distinct n-grams of a prompt's completions over their total number of words; None where there is no word.

    The denominator counts words, not n-grams, as in the code of DExperts (Liu et al. 2021). n-grams never cross from
    one completion into the next.
    """
    n_words = 0
    unique: set[tuple[str, ...]] = set()
    for text in texts:
        words = text.split()
        n_words += len(words)
        unique.update(ngrams(words, n))
    return len(unique) / n_words if n_words else None


def corpus_distinct(texts: Sequence[str], groups: Sequence[int], n: int) -> SetStatistic:
    """Distinct n-grams of all texts over their total number of words, and the same with each group left out.

    One pass: an n-gram is lost with a group exactly if it occurs in no other, so it is enough to remember for every
    n-gram the only group that has it.

    Args:
        texts: All completions.
        groups: The prompt-hash group of each completion's prompt.
        n: Length of the n-grams.
    """
    n_words = [0] * N_JACKKNIFE_GROUPS
    only_group: dict[tuple[str, ...], int] = {}
    for text, group in zip(texts, groups, strict=True):
        words = text.split()
        n_words[group] += len(words)
        for ngram in ngrams(words, n):
            if only_group.setdefault(ngram, group) != group:
                only_group[ngram] = _SEVERAL
    n_lost = [0] * N_JACKKNIFE_GROUPS
    for group in only_group.values():
        if group != _SEVERAL:
            n_lost[group] += 1
    present, total = set(groups), sum(n_words)
    replicates = tuple(
        (len(only_group) - n_lost[group]) / (total - n_words[group])
        if group in present and total > n_words[group]
        else None
        for group in range(N_JACKKNIFE_GROUPS)
    )
    return SetStatistic(len(only_group) / total if total else None, replicates)


def _distinct(sample: Sample, n: int) -> FloatArray:
    return np.array([distinct(own, n) for own in sample.texts], dtype=np.float64)


def _corpus_distinct(sample: Sample, n: int) -> SetStatistic:
    texts = [completion.text for completion in sample.completions]
    statistic = corpus_distinct(texts, np.repeat(sample.groups, sample.k).tolist(), n)
    return replace(statistic, counts=(len(texts), 0), reason="no completion has a word")


_metric = partial(
    Metric, direction="higher", section="diversity", order=200, between_0_and_1=True, depends_on_length=True
)

plugin = (
    *(_metric(name=f"distinct_{n}", of_prompts=partial(_distinct, n=n)) for n in LENGTHS),
    *(_metric(name=f"corpus_distinct_{n}", of_set=partial(_corpus_distinct, n=n)) for n in LENGTHS),
)
