"""Diversity and perplexity as in the code of DExperts, under names of their own. Definitions in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from alignbench.evaluation.metrics.aggregate import FloatArray, SetStatistic, counts, pooled_mean
from alignbench.evaluation.metrics.metric import Metric, Sample
from alignbench.evaluation.metrics.words import LENGTHS, ngrams

MOST_PERPLEXITY = 1e4
"""DExperts drops the texts of at least this perplexity from its mean."""


def dexperts_distinct(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams of a prompt's completions over their words, letter by letter as in the code of DExperts.

    There a word is what is between two single spaces, the empty one included, so that an empty text has one word
    and there is always a number; and an n-gram is its words joined by underscores, so that two may become one.
    (Liu et al. 2021, `scripts/evaluation/evaluate_generations.py`.)
    """
    split = [text.split(" ") for text in texts]
    return len({"_".join(ngram) for words in split for ngram in ngrams(words, n)}) / sum(map(len, split))


def below_most(log_perplexity: FloatArray) -> FloatArray:
    """Perplexities of the texts that the mean of DExperts keeps, NaN for the rest: (m,)."""
    kept = log_perplexity < np.log(MOST_PERPLEXITY)  # NaN is not below
    return np.exp(log_perplexity, out=np.full_like(log_perplexity, np.nan), where=kept)


def _distinct(sample: Sample, n: int) -> FloatArray:
    return np.array([dexperts_distinct(own, n) for own in sample.texts], dtype=np.float64)


def _perplexity(sample: Sample) -> SetStatistic:
    kept = below_most(sample.log_perplexity.ravel())
    missing = f"no completion has a perplexity below {MOST_PERPLEXITY:,.0f}"
    return replace(pooled_mean(kept, np.repeat(sample.groups, sample.k)), counts=counts(kept), reason=missing)


_metric = partial(Metric, section="dexperts", order=800, applies=lambda protocol: protocol.as_dexperts)
_variety = partial(_metric, direction="higher", between_0_and_1=True, depends_on_length=True)

plugin = (
    *(_variety(name=f"dexperts_distinct_{n}", of_prompts=partial(_distinct, n=n)) for n in LENGTHS),
    # Dropping the worst texts makes a policy that writes more of them look better.
    _metric(name="dexperts_perplexity", direction="none", needs="log-probabilities", of_set=_perplexity),
)
