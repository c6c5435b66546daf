"""Perplexity of the policy on texts that have nothing to do with its training: what training made it forget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from alignbench.errors import ModelError
from alignbench.evaluation.metrics.aggregate import FloatArray, IntArray, SetStatistic, ratio
from alignbench.evaluation.metrics.metric import Metric
from alignbench.evaluation.probes.probe import Probe
from alignbench.records import Policy, ReadsTexts, Scorer, fingerprint
from alignbench.statistics.jackknife import jackknife_group

NEUTRAL_TOKENS = 512
"""Most tokens that are read of a text, so that memory has a bound and contexts of different length do not matter."""


@dataclass(frozen=True, slots=True)
class Read:
    """What a policy says of m texts."""

    groups: IntArray
    """(m,)."""
    sums: FloatArray | None
    """(m,), negative log-probability of each in nats; None where the policy has none."""
    n_tokens: FloatArray
    """(m,), predicted tokens of each."""


def _log_perplexity(read: Read) -> SetStatistic:
    """Token-weighted; its replicates are logarithms, because means and tests are of those."""
    if read.sums is None:
        reason = "the policy has no log-probabilities of texts that answer no prompt"
        return SetStatistic(None, counts=(0, len(read.groups)), reason=reason)
    n_read = int((read.n_tokens > 0).sum())
    statistic = ratio(read.sums, read.n_tokens, read.groups)
    return replace(statistic, counts=(n_read, len(read.groups) - n_read), reason="no text has a token to predict")


class Neutral(Probe):
    """Texts that the policy reads."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="neutral_perplexity",
            direction="lower",
            needs="neutral texts",
            of_set=_log_perplexity,
            scale="log",
            section="fluency",
            order=900,
            condition="neutral_texts",
        ),
    )

    texts: tuple[str, ...]
    """In the order in which they are read."""

    def measure(
        self, policy: Policy, reference: Policy, scorers: Mapping[str, Scorer], *, seed: int, batch_prompts: int
    ) -> Read:
        """Asks the policy how likely each text is; `negative_logprobs`."""
        groups = np.array([jackknife_group(text) for text in self.texts], dtype=np.int64)
        measured = negative_logprobs(policy, self.texts)
        return Read(groups, *(measured or (None, np.zeros(len(self.texts)))))

    def conditions(self) -> Mapping[str, Any]:
        """Returns the hash of the texts."""
        return {"neutral_texts": fingerprint(list(self.texts))}


plugin = Neutral


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
