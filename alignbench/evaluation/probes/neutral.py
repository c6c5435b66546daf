"""Perplexity of the policy on texts that have nothing to do with its training: what training made it forget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignbench.errors import ModelError
from alignbench.evaluation.metrics.aggregate import FloatArray
from alignbench.records import Policy, ReadsTexts

NEUTRAL_TOKENS = 512
"""Most tokens that are read of a text, so that memory has a bound and contexts of different length do not matter."""


def negative_logprobs(policy: Policy, texts: Sequence[str]) -> tuple[FloatArray, FloatArray] | None:
    """Negative log-probability of each text in nats, and its predicted tokens: (m,) each; None where there is none.

    Raises:
        ModelError: The policy's answer does not fit what was asked, or is not finite.
    """
    tensors = policy.text_logprobs(texts, NEUTRAL_TOKENS) if isinstance(policy, ReadsTexts) else None
    if tensors is None:
        return None
    if len(tensors) != len(texts):
        raise ModelError(f"the policy gave log-probabilities of {len(tensors)} texts, expected {len(texts)}")
    sums = np.array([-float(tensor.detach().double().sum()) for tensor in tensors], dtype=np.float64)
    if not np.isfinite(sums).all():
        text = texts[int(np.flatnonzero(~np.isfinite(sums))[0])]
        raise ModelError(
            f"the policy gives a log-probability that is not finite for the neutral text {text[:80]!r}; its weights "
            "are probably broken, or the precision is too low"
        )
    return sums, np.array([len(tensor) for tensor in tensors], dtype=np.float64)
