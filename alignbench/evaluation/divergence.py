"""KL divergence of the policy from the reference, estimated from the policy's own samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignbench.evaluation.aggregate import FloatArray
from alignbench.records import Decoding


def untruncated(decoding: Decoding) -> Decoding:
    """Returns plain sampling at temperature 1 up to the same length: what `sequence_kl` must be fed with."""
    return Decoding(max_new_tokens=decoding.max_new_tokens)


def sequence_kl(logprobs: Sequence[FloatArray], reference_logprobs: Sequence[FloatArray]) -> FloatArray:
    """Sum over each completion's tokens of log pi - log pi_ref, in nats: (m,).

    Its mean over untruncated samples at temperature 1 is an unbiased estimate of the KL divergence between the two
    distributions over sequences (the k1 estimator of Schulman, "Approximating KL divergence", 2020). A sampled
    end-of-sequence token is part of the sequence and counts.
    """
    return np.array(
        [(own - other).sum() for own, other in zip(logprobs, reference_logprobs, strict=True)], dtype=np.float64
    )
