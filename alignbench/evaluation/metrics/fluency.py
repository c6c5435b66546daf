"""Perplexity of completions under the frozen reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alignbench.evaluation.metrics.aggregate import FloatArray, SetStatistic, ratio
from alignbench.records import Completion

MOST_PERPLEXITY = 1e4
"""DExperts drops the texts of at least this perplexity from its mean."""


def log_perplexities(completions: Sequence[Completion], reference_logprobs: Sequence[FloatArray]) -> FloatArray:
    """Mean negative log-probability in nats of each completion's tokens given its prompt: (m,).

    The end-of-sequence token is left out, so that fluency says nothing about length. NaN where no token is left.
    """
    return np.array(
        [
            -logprobs[: completion.n_tokens].mean() if completion.n_tokens else np.nan
            for completion, logprobs in zip(completions, reference_logprobs, strict=True)
        ],
        dtype=np.float64,
    )


def below_most(log_perplexity: FloatArray) -> FloatArray:
    """Perplexities of the texts that the mean of DExperts keeps, NaN for the rest: (m,)."""
    kept = log_perplexity < np.log(MOST_PERPLEXITY)  # NaN is not below
    return np.exp(log_perplexity, out=np.full_like(log_perplexity, np.nan), where=kept)


def pooled_mean(values: FloatArray, groups: NDArray[np.int64]) -> SetStatistic:
    """Mean of all values that are not NaN, whatever their prompt, with its replicates.

    Args:
        values: (m,).
        groups: (m,), the prompt-hash group of each value's prompt.
    """
    return ratio(values, np.ones_like(values), groups)
