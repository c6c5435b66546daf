"""KL divergence of the policy from the reference, in nats, from samples of its own.

One completion per prompt, drawn at temperature 1 without truncation and up to one length, whatever the protocol: the
same prompts give the same numbers under each of them.

A policy that chooses among answers of another one does not know how likely its own are, but how far the choice takes
them from those of the other, in nats c(y) of each answer. With q the other one, p_ref the reference,

    KL(policy || reference) = E[c(y)] + E[log q(y) - log p_ref(y)], y from the policy,

or at most that, where c is a bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import Protocol, runtime_checkable

import numpy as np

from alignbench.errors import ModelError
from alignbench.evaluation.metrics.aggregate import FloatArray, IntArray, SetStatistic, counts, ratio
from alignbench.evaluation.metrics.metric import Metric, Need
from alignbench.evaluation.protocols import DIVERGENCE_TOKENS
from alignbench.evaluation.samples import (
    checked_logprobs,
    completions_of,
    in_order,
    logprobs_of,
    reference_logprobs_of,
    stream_of,
)
from alignbench.records import Completion, Decoding, GivesDistributions, Policy, Prompt

EXACT_PROMPTS = 64
"""The first so many prompts have the KL over the whole vocabulary: it needs whole distributions of both models."""
MOST_VALUES = 2**23
"""Completions whose distributions are held at a time have up to so many values together, 64 MB; but it is one at least:
30 states of 250,000 words in float64 are 60 MB."""
VALUES_AT_ONCE = 2**20
"""Of the probabilities that one sum goes over."""
_MODELS = ("policy", "reference")


@runtime_checkable
class Chooses(Protocol):
    """A policy that draws answers of another one and keeps some: best-of-n, or a filter."""

    base: Policy
    """Whose answers they are."""
    choice_is_bound: bool
    """True where `generate_with_choice` gives bounds."""

    def generate_with_choice(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> tuple[list[Completion], list[float]]:
        """What `generate` gives, and c of each answer in nats; NaN where it is not known."""
        ...


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
    bound: FloatArray | None = None
    """k1 of a policy that knows no more than a bound of it; None of any other."""


def measure_divergence(
    policy: Policy, reference: Policy, prompts: Sequence[Prompt], seed: int, n_exact: int, purpose: str | None = None
) -> Divergence:
    """Draws the samples and asks both models about them; the first `n_exact` prompts get the exact value too.

    All three are unbiased for KL(policy || reference) of completions up to `DIVERGENCE_TOKENS` (Schulman,
    "Approximating KL divergence", 2020; the exact one by the chain rule).
    """
    key = (*stream_of(seed, purpose), "divergence")
    if isinstance(policy, Chooses):
        return _of_choice(policy, reference, prompts, key)
    completions = completions_of(policy, prompts, Decoding(DIVERGENCE_TOKENS), 1, key)
    n_tokens = np.array([len(completion.token_ids) for completion in completions], dtype=np.float64)
    k1, k3, exact = (np.full(len(prompts), np.nan) for _ in range(3))
    rest = slice(0, None)
    for rows, *both in _distributions(policy, reference, prompts[:n_exact], completions[:n_exact]):
        exact[rows] = exact_kl(*both)
        own, other = (_of_tokens(one, completions[rows], who) for one, who in zip(both, _MODELS, strict=True))
        k1[rows], k3[rows] = sequence_kl(own, other)
        rest = slice(rows.stop, None)
    logprobs = logprobs_of(policy, prompts[rest], completions[rest], "policy") if completions[rest] else None
    if logprobs is not None:
        k1[rest], k3[rest] = sequence_kl(logprobs, reference_logprobs_of(reference, prompts[rest], completions[rest]))
    return Divergence(k1, k3, exact, n_tokens, completions)


def _of_choice(policy: Chooses, reference: Policy, prompts: Sequence[Prompt], key: Sequence[int | str]) -> Divergence:
    """What a choice among the answers of another policy and that policy make together."""
    completions, nats = policy.generate_with_choice(prompts, Decoding(DIVERGENCE_TOKENS), 1, key)
    in_order(completions, prompts, 1)
    unknown = np.full(len(prompts), np.nan)
    own = logprobs_of(policy.base, prompts, completions, "policy")
    both = None if own is None else sequence_kl(own, reference_logprobs_of(reference, prompts, completions))[0]
    found = unknown if both is None else both + np.array(nats, dtype=np.float64)
    n_tokens = np.array([len(completion.token_ids) for completion in completions], dtype=np.float64)
    k1, bound = (unknown, found) if policy.choice_is_bound else (found, None)
    return Divergence(k1, unknown, unknown, n_tokens, completions, bound=bound)


def concatenate(parts: Sequence[Divergence], order: Sequence[int]) -> Divergence:
    """Joins batches of prompts; `order` has the places of their prompts, batch after batch."""
    rows = np.argsort(order)

    def joined(name: str) -> FloatArray:
        return np.concatenate([getattr(part, name) for part in parts])[rows]

    completions = [completion for part in parts for completion in part.completions]
    return Divergence(
        joined("k1"),
        joined("k3"),
        joined("exact"),
        joined("n_tokens"),
        [completions[row] for row in rows],
        bound=None if parts[0].bound is None else joined("bound"),
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


def _distributions(
    policy: Policy, reference: Policy, prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> Iterator[tuple[slice, list[FloatArray], list[FloatArray]]]:
    """Yields distributions of both models, some completions at a time, with their places; nothing where one has none.

    Both models read the same batches: where they are one, so are their numbers, to the last digit.
    """
    start, size = 0, 1  # how many words there are is not known yet
    while start < len(completions):
        rows = slice(start, min(start + size, len(completions)))
        own = _distributions_of(policy, prompts[rows], completions[rows], "policy")
        other = None if own is None else _distributions_of(reference, prompts[rows], completions[rows], "reference")
        if own is None or other is None:
            return
        yield rows, own, other
        n_words = own[0].shape[1]
        start, size = rows.stop, max(1, MOST_VALUES // (DIVERGENCE_TOKENS * n_words))


def exact_kl(own: Sequence[FloatArray], other: Sequence[FloatArray]) -> FloatArray:
    """The sum over the states of each completion of the KL between two distributions: (m,), NaN where it is infinite.

    ModelError where they are not over the same words.
    """
    values = []
    for one, reference_one in zip(own, other, strict=True):
        if one.shape != reference_one.shape:
            raise ModelError(
                f"policy and reference gave next-token distributions of shapes {one.shape} and {reference_one.shape}; "
                "a KL needs one vocabulary"
            )
        n_parts = math.ceil(one.size / VALUES_AT_ONCE) or 1
        parts = zip(*(np.array_split(both, n_parts) for both in (one, reference_one)), strict=True)
        values.append(math.fsum(_kl_of_states(*part) for part in parts))
    exact = np.array(values, dtype=np.float64)
    return np.where(np.isfinite(exact), exact, np.nan)


def _kl_of_states(one: FloatArray, reference_one: FloatArray) -> float:
    possible = np.isfinite(one)  # 0 log 0 = 0
    differences = np.subtract(one, reference_one, where=possible, out=np.zeros_like(one))
    return float((np.exp(one) * differences).sum())


def _of_tokens(distributions: Sequence[FloatArray], completions: Sequence[Completion], who: str) -> list[FloatArray]:
    """The log-probabilities of the tokens themselves."""
    tokens = [np.array(completion.token_ids, dtype=np.int64) for completion in completions]
    values = [one[np.arange(len(ids)), ids] for one, ids in zip(distributions, tokens, strict=True)]
    return checked_logprobs(values, completions, who)


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
    yield _metric(name="kl_bound", needs="log-probabilities", missing=_NO_LOGPROBS, of_prompts=attrgetter("bound"))


plugin = tuple(_metrics())


def metrics_on(measured: Divergence) -> list[Metric]:
    """Those that mean something of what was measured: a bound only where there is one."""
    return [metric for metric in plugin if metric.name != "kl_bound" or measured.bound is not None]
