"""Perplexity of completions under the frozen reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignbench.evaluation.aggregate import FloatArray
from alignbench.records import Completion


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
