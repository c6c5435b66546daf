"""KL divergence of the policy from the reference, in nats, from samples of its own.

One completion per prompt, drawn at temperature 1 without truncation and up to one length, whatever the protocol: the
same prompts give the same numbers under each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter

import numpy as np

from alignbench.errors import ModelError
from alignbench.evaluation.metrics.aggregate import FloatArray, IntArray, SetStatistic, counts, ratio
from alignbench.evaluation.metrics.metric import Metric, Need
from alignbench.evaluation.protocols import DIVERGENCE_TOKENS
from alignbench.evaluation.samples import completions_of, logprobs_of, reference_logprobs_of, stream_of
from alignbench.records import Completion, Decoding, GivesDistributions, Policy, Prompt

EXACT_PROMPTS = 64
"""The first so many prompts have the KL over the whole vocabulary: it needs whole distributions of both models."""
_EXACT_BATCH = 4
"""Completions whose distributions are held at a time: 4 x 30 states of 250,000 words in float64 are 240 MB."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """One completion per prompt: every array is (n,), NaN where it could not be measured."""

    k1: FloatArray
    """Sum over tokens of log p - log p_ref."""
    k3: FloatArray
    """Sum over tokens of exp(-k1) - 1 + k1."""
    exact: FloatArray
    """Sum over the states before each token of the KL between both next-token distributions."""
    n_tokens: FloatArray
    """Sampled tokens, the end-of-sequence token included."""
    completions: list[Completion]
    groups: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """The hash group of each prompt."""


def measure_divergence(
    policy: Policy, reference: Policy, prompts: Sequence[Prompt], seed: int, n_exact: int, purpose: str | None = None
) -> Divergence:
    """Draws the samples and asks both models about them; the first `n_exact` prompts get the exact value too.

    All three are unbiased for KL(policy || reference) of completions up to `DIVERGENCE_TOKENS` (Schulman,
    "Approximating KL divergence", 2020; the exact one by the chain rule).
    """
    key = (*stream_of(seed, purpose), "divergence")
    completions = completions_of(policy, prompts, Decoding(DIVERGENCE_TOKENS), 1, key)
    n_tokens = np.array([len(completion.token_ids) for completion in completions], dtype=np.float64)
    unmeasured = np.full(len(prompts), np.nan)
    logprobs = logprobs_of(policy, prompts, completions, "policy")
    k1 = k3 = unmeasured
    if logprobs is not None:
        k1, k3 = sequence_kl(logprobs, reference_logprobs_of(reference, prompts, completions))
    exact = unmeasured.copy()
    for start in range(0, min(n_exact, len(prompts)), _EXACT_BATCH):
        rows = slice(start, min(start + _EXACT_BATCH, n_exact))
        exact[rows] = _exact_kl(policy, reference, prompts[rows], completions[rows])
    return Divergence(k1, k3, exact, n_tokens, completions)


def concatenate(parts: Sequence[Divergence], order: Sequence[int]) -> Divergence:
    """Joins batches of prompts; `order` has the places of their prompts, batch after batch."""
    rows = np.argsort(order)

    def joined(name: str) -> FloatArray:
        return np.concatenate([getattr(part, name) for part in parts])[rows]

    completions = [completion for part in parts for completion in part.completions]
    return Divergence(
        joined("k1"), joined("k3"), joined("exact"), joined("n_tokens"), [completions[row] for row in rows]
    )


def sequence_kl(
    logprobs: Sequence[FloatArray], reference_logprobs: Sequence[FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """The k1 and k3 sums of each completion: (m,) each. A sampled end-of-sequence token counts."""
    differences = [own - other for own, other in zip(logprobs, reference_logprobs, strict=True)]
    with np.errstate(over="ignore"):  # a sample that the policy itself holds for impossible has no k3
        k3 = np.array([(np.exp(-one) - 1 + one).sum() for one in differences], dtype=np.float64)
    k1 = np.array([one.sum() for one in differences], dtype=np.float64)
    return k1, np.where(np.isfinite(k3), k3, np.nan)


def _exact_kl(
    policy: Policy, reference: Policy, prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> FloatArray:
    own = _distributions_of(policy, prompts, completions, "policy")
    other = None if own is None else _distributions_of(reference, prompts, completions, "reference")
    if own is None or other is None:
        return np.full(len(prompts), np.nan)
    values = []
    for one, reference_one in zip(own, other, strict=True):
        if one.shape != reference_one.shape:
            raise ModelError(
                f"policy and reference gave next-token distributions of shapes {one.shape} and {reference_one.shape}; "
                "a KL needs one vocabulary"
            )
        possible = np.isfinite(one)  # 0 log 0 = 0
        differences = np.subtract(one, reference_one, where=possible, out=np.zeros_like(one))
        values.append(float((np.exp(one) * differences).sum()))
    exact = np.array(values, dtype=np.float64)
    return np.where(np.isfinite(exact), exact, np.nan)


def _distributions_of(
    policy: Policy, prompts: Sequence[Prompt], completions: Sequence[Completion], who: str
) -> list[FloatArray] | None:
    """Log-probabilities of every word at every state, (len(token_ids), V) each; None where the policy has none."""
    tensors = policy.next_token_logprobs(prompts, completions) if isinstance(policy, GivesDistributions) else None
    if tensors is None:
        return None
    arrays = [np.asarray(tensor.detach().double().cpu().numpy()) for tensor in tensors]
    expected = [len(completion.token_ids) for completion in completions]
    if [array.shape[0] for array in arrays] != expected or any(array.ndim != 2 for array in arrays):
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ModelError(
            f"the {who} gave next-token distributions of shapes {shapes}; expected one row per token, that is "
            f"{', '.join(map(str, expected))} rows"
        )
    return arrays


def _per_token(measured: Divergence, estimate: str, n_prompts: int | None, reason: str) -> SetStatistic:
    """All sums over all tokens; the prompts after the first `n_prompts` were not asked."""
    values = getattr(measured, estimate)
    statistic = ratio(values, measured.n_tokens, measured.groups)
    groups = measured.groups[~np.isnan(values)]
    return replace(statistic, groups=groups, counts=counts(values[:n_prompts]), reason=reason)


_NO_LOGPROBS = "the policy has no token log-probabilities"
_NO_DISTRIBUTIONS = "policy or reference has no next-token distributions"
_ESTIMATES: tuple[tuple[str, str, Need, int | None, str], ...] = (
    ("kl", "k1", "log-probabilities", None, _NO_LOGPROBS),
    ("kl_k3", "k3", "log-probabilities", None, _NO_LOGPROBS),
    ("kl_exact", "exact", "distributions", EXACT_PROMPTS, _NO_DISTRIBUTIONS),
)
_metric = partial(Metric, direction="none", section="divergence", order=600)


def _metrics() -> Iterator[Metric]:
    for name, estimate, needs, n_prompts, reason in _ESTIMATES:
        yield _metric(name=name, needs=needs, n_prompts=n_prompts, missing=reason, of_prompts=attrgetter(estimate))
    for name, estimate, needs, n_prompts, reason in _ESTIMATES:
        per_token = partial(_per_token, estimate=estimate, n_prompts=n_prompts, reason=reason)
        yield _metric(name=f"{name}_per_token", needs=needs, of_set=per_token)


plugin = tuple(_metrics())
