"""What the evaluator asks of policies and scorers: the drawing itself, and the checks on the answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from alignbench.errors import ModelError, ScorerError
from alignbench.evaluation.metrics.aggregate import FloatArray
from alignbench.evaluation.protocols import EvalProtocol
from alignbench.records import Completion, Cost, Decoding, Policy, Prompt, Scorer, total
from alignbench.scorers.base import cut_prompts

if TYPE_CHECKING:
    import torch

_SHOWN_CHARS = 80
_DRAWING = ("generate", "token_logprobs", "generate_with_logprobs")
# A probability computed as 1 - p in float32 may pass its bounds by rounding.
_ROUNDING = 1e-6


@runtime_checkable
class SeesLogprobs(Protocol):
    """A policy that sees, while it samples, the log-probabilities that it would else be asked for afterwards.

    A class that has a `generate` or a `token_logprobs` of its own, and inherits this, is asked by these.
    """

    def generate_with_logprobs(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> tuple[list[Completion], list[torch.Tensor] | None]:
        """Gives what `generate` gives, and what `token_logprobs` gives of it, up to rounding.

        None in place of the latter where they cannot be seen under this decoding.
        """
        ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """Completions and what was asked about them, prompt-major: m = prompts x samples; every array is (m,)."""

    completions: list[Completion]
    toxicity: dict[str, FloatArray]
    """By scorer; NaN where unscored."""
    n_cut: dict[str, int]
    """By scorer: completions that it read after a prompt that lost its beginning."""
    logprob: FloatArray
    """Sum over the tokens under the policy; NaN where the policy has no log-probabilities."""
    reference_logprob: FloatArray
    log_perplexity: FloatArray
    """Under the reference; NaN where the completion has no token."""
    spent: Cost
    """By the policy, for the completions."""


def draw(
    policy: Policy,
    reference: Policy,
    prompts: Sequence[Prompt],
    protocol: EvalProtocol,
    scorers: Mapping[str, Scorer],
    seed: int,
    purpose: str | None = None,
) -> Drawn:
    """Draws the protocol's completions of some prompts and asks scorers, policy and reference about them."""
    k = protocol.samples_per_prompt
    key = (*stream_of(seed, purpose), "evaluation", protocol.name)
    before = replace(policy.spent)
    completions, seen = _completions_and_logprobs(policy, prompts, protocol.decoding, k, key)
    spent = policy.spent.since(before)
    owners = repeat(prompts, k)
    toxicity = {name: toxicity_scores(scorer, name, owners, completions) for name, scorer in scorers.items()}
    texts = [prompt.text for prompt in owners], [completion.text for completion in completions]
    n_cut = {name: sum(cut_prompts(scorer, *texts)) for name, scorer in scorers.items()}
    reference_logprobs = reference_logprobs_of(reference, owners, completions)
    logprobs = seen or logprobs_of(policy, owners, completions, "policy")
    return Drawn(
        completions=completions,
        toxicity=toxicity,
        n_cut=n_cut,
        logprob=np.full(len(completions), np.nan) if logprobs is None else _sums(logprobs),
        reference_logprob=_sums(reference_logprobs),
        log_perplexity=log_perplexities(completions, reference_logprobs),
        spent=spent,
    )


def stream_of(seed: int, purpose: str | None) -> tuple[int | str, ...]:
    """What all keys of the draws of one evaluation begin with."""
    return (seed,) if purpose is None else (seed, purpose)


def concatenate(parts: Sequence[Drawn], order: Sequence[int]) -> Drawn:
    """Joins what was drawn for batches of prompts; `order` has the places of their prompts, batch after batch."""
    n_samples = sum(len(part.completions) for part in parts) // len(order)
    rows = (np.argsort(order)[:, None] * n_samples + np.arange(n_samples)).ravel()
    completions = [completion for part in parts for completion in part.completions]
    return Drawn(
        completions=[completions[row] for row in rows],
        toxicity={name: np.concatenate([part.toxicity[name] for part in parts])[rows] for name in parts[0].toxicity},
        n_cut={name: sum(part.n_cut[name] for part in parts) for name in parts[0].n_cut},
        logprob=np.concatenate([part.logprob for part in parts])[rows],
        reference_logprob=np.concatenate([part.reference_logprob for part in parts])[rows],
        log_perplexity=np.concatenate([part.log_perplexity for part in parts])[rows],
        spent=total(part.spent for part in parts),
    )


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


def _sums(logprobs: Sequence[FloatArray]) -> FloatArray:
    return np.array([array.sum() for array in logprobs], dtype=np.float64)


def repeat(prompts: Sequence[Prompt], n_samples: int) -> list[Prompt]:
    """The prompt of each completion, prompt-major."""
    return [prompt for prompt in prompts for _ in range(n_samples)]


def completions_of(
    policy: Policy, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
) -> list[Completion]:
    """Draws `n_samples` completions of every prompt; ModelError where the policy answers out of order."""
    return in_order(policy.generate(prompts, decoding, n_samples, key), prompts, n_samples)


def _completions_and_logprobs(
    policy: Policy, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
) -> tuple[list[Completion], list[FloatArray] | None]:
    """Does the same, and gives the log-probabilities of the tokens where the policy has seen them."""
    if not isinstance(policy, SeesLogprobs) or not _is_its_own(policy):
        return completions_of(policy, prompts, decoding, n_samples, key), None
    completions, logprobs = policy.generate_with_logprobs(prompts, decoding, n_samples, key)
    in_order(completions, prompts, n_samples)
    return completions, None if logprobs is None else checked_logprobs(_arrays(logprobs), completions, "policy")


def _is_its_own(policy: SeesLogprobs) -> bool:
    """False where a class draws or reads in a way of its own, and has inherited how both are done at once."""
    owner = {name: next(kind for kind in type(policy).__mro__ if name in vars(kind)) for name in _DRAWING}
    return all(issubclass(owner["generate_with_logprobs"], one) for one in owner.values())


def in_order(completions: list[Completion], prompts: Sequence[Prompt], n_samples: int) -> list[Completion]:
    """Returns what a policy gave, prompt by prompt; ModelError where it is not that."""
    expected = [(prompt.id, sample) for prompt in prompts for sample in range(n_samples)]
    if [(completion.prompt_id, completion.sample) for completion in completions] != expected:
        raise ModelError(
            f"the policy returned {len(completions)} completions that are not the samples 0 to {n_samples - 1} of each "
            f"of {len(prompts)} prompts in their order; generate() must answer prompt by prompt"
        )
    return completions


def logprobs_of(
    policy: Policy, prompts: Sequence[Prompt], completions: Sequence[Completion], who: str
) -> list[FloatArray] | None:
    """Log-probabilities of the completions' tokens in float64, or None where the policy has none.

    ModelError as in `checked_logprobs`.
    """
    tensors = policy.token_logprobs(prompts, completions)
    return None if tensors is None else checked_logprobs(_arrays(tensors), completions, who)


def _arrays(tensors: Sequence[torch.Tensor]) -> list[FloatArray]:
    return [np.asarray(tensor.detach().double().cpu().numpy()) for tensor in tensors]


def checked_logprobs(arrays: list[FloatArray], completions: Sequence[Completion], who: str) -> list[FloatArray]:
    """Returns log-probabilities of the completions' tokens.

    Raises:
        ModelError: Their number does not fit the tokens, or one is not finite. `who` names the model.
    """
    if len(arrays) != len(completions):
        raise ModelError(f"the {who} gave log-probabilities of {len(arrays)} completions, expected {len(completions)}")
    for completion, array in zip(completions, arrays, strict=True):
        if array.shape != (len(completion.token_ids),):
            raise ModelError(
                f"the {who} gave log-probabilities of shape {array.shape} for a completion of prompt "
                f"{completion.prompt_id} with {len(completion.token_ids)} tokens; expected one per token"
            )
        if not np.isfinite(array).all():
            raise ModelError(
                f"the {who} gives a log-probability that is not finite for a completion of prompt "
                f"{completion.prompt_id}: {_shorten(completion.text)}; its weights are probably broken, or the "
                f"precision is too low"
            )
    return arrays


def reference_logprobs_of(
    reference: Policy, prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> list[FloatArray]:
    """`logprobs_of` for the reference, which must have them: ModelError where it has none."""
    logprobs = logprobs_of(reference, prompts, completions, "reference")
    if logprobs is None:
        raise ModelError("the reference has no token log-probabilities; it must be a language model, not a wrapper")
    return logprobs


def toxicity_scores(
    scorer: Scorer, name: str, prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> FloatArray:
    """Scores of the completions between 0 and 1, NaN where the scorer gives None: (m,).

    Raises:
        ScorerError: A score is not finite or no probability, or their number does not fit.
    """
    scores = scorer.score([prompt.text for prompt in prompts], [completion.text for completion in completions])
    if len(scores) != len(completions):
        raise ScorerError(f"scorer {name!r} returned {len(scores)} scores for {len(completions)} completions")
    for completion, score in zip(completions, scores, strict=True):
        if score is not None and not (math.isfinite(score) and -_ROUNDING <= score <= 1 + _ROUNDING):
            raise ScorerError(
                f"scorer {name!r} returned {score} for the text {_shorten(completion.text)} (prompt "
                f"{completion.prompt_id}); expected a toxicity between 0 and 1, or None where it cannot score a text"
            )
    return np.array([np.nan if score is None else float(score) for score in scores], dtype=np.float64)


def _shorten(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")
