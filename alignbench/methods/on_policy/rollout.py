"""Rollouts: sampled completions with everything that the update needs, taken before the first gradient step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alignbench.errors import TrainingError
from alignbench.methods.on_policy.fast.fused import sampled_logprobs
from alignbench.methods.on_policy.kl import ESTIMATORS, exact_kl
from alignbench.methods.on_policy.losses import entropy
from alignbench.models.forward import SequenceBatch, to_device, token_logprobs
from alignbench.models.output_layer import States, compare
from alignbench.models.sampling.capture import Capture
from alignbench.models.sampling.token_draw import EosId, sampling_support
from alignbench.records import Completion, Decoding, Prompt
from alignbench.runtime import distributed
from alignbench.statistics.thresholds import MAX_UNSCORED

if TYPE_CHECKING:
    from alignbench.methods.on_policy.networks import Networks

RewardFunction = Callable[[Sequence[str], Sequence[str]], Sequence[float | None]]
"""Prompts and completions to rewards; None where a completion cannot be scored."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One batch of b completions of up to t tokens, every tensor without gradient."""

    batch: SequenceBatch
    mask: Tensor
    """(b, t), True on the tokens that are trained on: completion tokens of scored completions."""
    rewards: Tensor
    """(b,), as trained on: scaled, cut and penalised; 0 where unscored, which the mask leaves out."""
    logprobs: Tensor
    """Of the sampled tokens under the distribution that was sampled from, (b, t): what ratios are taken of."""
    policy_logprobs: Tensor
    """The same without top-k and top-p, (b, t): what the KL compares with the reference."""
    reference_logprobs: Tensor
    """Of the sampled tokens under the reference without top-k and top-p, (b, t)."""
    kl: Tensor
    """KL to the reference by the configured estimator in nats, (b, t)."""
    exact_kl: Tensor | None
    """The same by the sum over the vocabulary, (b, t); None where no pass had both distributions at hand."""
    values: Tensor | None
    """(b, t); None where the method has none."""
    entropy: Tensor
    """Of the policy's next-token distributions in nats, (b, t)."""
    support: Tensor | None
    """(b, t, V), True where top-k and top-p left a token; None where neither is set."""
    shared: Tensor | None
    """Output of the shared layers, (b, p + t, h); None where policy and reference share none."""

    def rewarded(self, scored: Tensor, rewards: Tensor) -> Rollout:
        """Returns it with rewards (b,), to be trained on where `scored` (b,) is True."""
        return replace(self, mask=self.mask & scored.unsqueeze(1), rewards=rewards)

    def rows(self, index: Tensor) -> Rollout:
        """Returns some of the rows, padded as before."""
        beside = to_device(index, self.mask.device)
        return replace(self, batch=self.batch.rows(index), **{k: v[beside] for k, v in self._tensors().items()})

    def trimmed(self) -> Rollout:
        """Returns the same rows without columns of padding alone."""
        prompt, completion = self.batch.columns
        cut = {name: value[:, completion] if value.dim() > 1 else value for name, value in self._tensors().items()}
        if self.shared is not None:  # of prompts that are padded on the left, and all but the last token
            cut["shared"] = self.shared[:, prompt.start : prompt.stop + completion.stop - 1]
        return replace(self, batch=self.batch.trimmed(), **cut)

    def _tensors(self) -> dict[str, Tensor]:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in parts.items() if isinstance(value, Tensor)}


def collect_rewards(
    reward: RewardFunction, prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> list[float | None]:
    """Scores completions; stops on rewards that are not finite."""
    given = reward([prompt.text for prompt in prompts], [completion.text for completion in completions])
    try:
        rewards = [None if value is None else _number(value) for value in given]
    except (TypeError, ValueError) as error:
        raise TrainingError(
            f"the reward gave {str(given)[:200]}, expected a sequence with a number or None for each completion"
        ) from error
    if len(rewards) != len(completions):
        raise TrainingError(f"the reward gave {len(rewards)} values for {len(completions)} completions")
    for value, completion in zip(rewards, completions, strict=True):
        if value is not None and not math.isfinite(value):
            raise TrainingError(
                f"the reward is {value} for the completion {completion.text!r} of prompt {completion.prompt_id}"
            )
    return rewards


def check_scored(rewards: Sequence[float | None]) -> None:
    """Stops when more than 1 % of a batch are unscored."""
    n_missing = sum(value is None for value in rewards)
    if n_missing > MAX_UNSCORED * len(rewards):
        raise TrainingError(
            f"the reward left {n_missing} of {len(rewards)} completions unscored; at most 1 % are tolerated, "
            "because training on the rest would be training on a selection"
        )


def _number(value: Any) -> float:
    if isinstance(value, str):  # float() would take it
        raise TypeError("a text")
    return float(value)


def policy_distribution(logits: Tensor, decoding: Decoding, eos_id: EosId) -> Tensor:
    """Logits (b, t, V) in float32 at the sampling temperature, where no end of sequence is allowed before its time.

    Top-k and top-p are left out. What cannot be drawn gets so low a logit that its probability is 0 and products
    with it are finite.
    """
    scaled = logits.float() / decoding.temperature
    allowed = sampling_support(scaled, replace(decoding, temperature=1.0, top_k=0, top_p=1.0), eos_id)
    return scaled if allowed is None else scaled.masked_fill(~allowed, -1e9)


def whole_logprobs(
    logits: Tensor | States, batch: SequenceBatch, decoding: Decoding, eos_id: EosId, *, fused: bool
) -> Tensor:
    """Log-probabilities in nats of a batch's tokens by `policy_distribution` of logits (b, t, V): (b, t)."""
    if isinstance(logits, States):
        return logits.logprobs(batch.completion_ids, decoding.temperature, eos_id, decoding.min_new_tokens)
    if not fused:
        return token_logprobs(policy_distribution(logits, decoding, eos_id), batch.completion_ids)
    n_banned = min(decoding.min_new_tokens, logits.shape[1])
    return sampled_logprobs(logits, batch.completion_ids, decoding.temperature, eos_id, n_banned)


def truncation(logits: Tensor, decoding: Decoding) -> Tensor | None:
    """What top-k and top-p leave of `policy_distribution`'s logits (b, t, V): True there; None where neither is set."""
    return sampling_support(logits, replace(decoding, temperature=1.0, min_new_tokens=0), None)


@torch.no_grad()
def measure(
    networks: Networks,
    batch: SequenceBatch,
    decoding: Decoding,
    eos_id: EosId,
    capture: Capture | None = None,
) -> Rollout:
    """What the update needs of sampled completions, a micro-batch at a time; all of it but the rewards, which are 0.

    Of several processes each does its share.

    Args:
        networks: What runs.
        batch: The completions, those of all processes.
        decoding: How the completions were sampled.
        eos_id: The end-of-sequence tokens.
        capture: What sampling saw of this process's; None: the policy and its values are run over them once more.
    """
    own = batch.rows(distributed.share())
    if capture is None:
        columns = _full_passes(networks, own, decoding, eos_id)
    else:
        columns = _captured(networks, own, decoding, eos_id, capture)
    for name, column in columns.items():
        columns[name] = None if column is None else distributed.gather_rows(column)
    unknown = torch.zeros(len(batch), device=batch.input_ids.device)
    return Rollout(batch=batch, mask=batch.completion_mask, rewards=unknown, **columns)


def _full_passes(networks: Networks, batch: SequenceBatch, decoding: Decoding, eos_id: EosId) -> dict[str, Any]:
    """Columns of a rollout by one full pass each of policy, values and reference."""
    parts: list[dict[str, Any]] = []
    for part in batch.split(networks.rows_at_once):
        raw_reference, shared = networks.reference_and_shared(part)
        raw, values = networks.policy_and_values(part, shared)
        if isinstance(raw, States) and isinstance(raw_reference, States):
            columns = _of_states(networks, part, raw, raw_reference, decoding, eos_id)
        else:
            assert isinstance(raw, Tensor)
            assert isinstance(raw_reference, Tensor)
            rows = zip(part.split(1), raw.unsqueeze(1), raw_reference.unsqueeze(1), strict=True)
            columns = _joined([_of_distributions(networks, *row, decoding, eos_id) for row in rows])
        parts.append(columns | {"values": values, "shared": shared})
    return _joined(parts)


def _of_states(
    networks: Networks, batch: SequenceBatch, states: States, reference: States, decoding: Decoding, eos_id: EosId
) -> dict[str, Any]:
    """`_of_distributions` where logits are too many to be made whole."""
    found = compare(states, reference, batch.completion_ids, decoding.temperature, eos_id, decoding.min_new_tokens)
    return _columns(networks, found.logprobs, found.reference_logprobs, found.kl, found.entropy)


def _of_distributions(
    networks: Networks, batch: SequenceBatch, raw: Tensor, raw_reference: Tensor, decoding: Decoding, eos_id: EosId
) -> dict[str, Any]:
    """Columns that come from logits of policy and reference; of few rows, for it makes many tensors of their size."""
    config = networks.config
    logprobs, reference_logprobs = (
        whole_logprobs(one, batch, decoding, eos_id, fused=config.fuses) for one in (raw, raw_reference)
    )
    logits, reference = (policy_distribution(one, decoding, eos_id) for one in (raw, raw_reference))
    exact = exact_kl(logits, reference)
    support = truncation(logits, decoding)
    sampled = logprobs if support is None else token_logprobs(logits, batch.completion_ids, support=support)
    columns = _columns(networks, logprobs, reference_logprobs, exact, entropy(logits))
    return columns | {"logprobs": sampled, "support": support}


def _columns(
    networks: Networks, logprobs: Tensor, reference_logprobs: Tensor, exact: Tensor, entropies: Tensor
) -> dict[str, Any]:
    """Columns of a rollout whose tokens were sampled from whole distributions."""
    estimator = networks.config.kl_estimator
    return {
        "logprobs": logprobs,
        "policy_logprobs": logprobs,
        "reference_logprobs": reference_logprobs,
        "kl": exact if estimator == "exact" else ESTIMATORS[estimator](logprobs, reference_logprobs),
        "exact_kl": exact,
        "entropy": entropies,
        "support": None,
    }


def _captured(
    networks: Networks, batch: SequenceBatch, decoding: Decoding, eos_id: EosId, capture: Capture
) -> dict[str, Any]:
    """Columns of a rollout from what sampling saw and one full pass of the reference."""
    logprobs, entropies = (as_wide(batch, kept) for kept in (capture.logprobs, capture.entropy))
    values = None if capture.values_of is None else as_wide(batch, capture.values)
    parts: list[dict[str, Any]] = []
    for part in batch.split(networks.rows_at_once):
        raw, shared = networks.reference_and_shared(part)
        reference_logprobs = whole_logprobs(raw, part, decoding, eos_id, fused=True)
        parts.append({"reference_logprobs": reference_logprobs, "shared": shared})
    measured = _joined(parts)
    return measured | {
        "logprobs": logprobs,
        "policy_logprobs": logprobs,
        "kl": ESTIMATORS[networks.config.kl_estimator](logprobs, measured["reference_logprobs"]),
        "exact_kl": None,
        "values": values,
        "entropy": entropies,
        "support": None,
    }


def as_wide(batch: SequenceBatch, parts: Sequence[Tensor]) -> Tensor:
    """Joins what was captured of several batches, cut or filled up with 0 to the width of one: (b, t)."""
    t = batch.completion_mask.shape[1]
    return torch.cat([nn.functional.pad(part, (0, t - part.shape[1])) for part in parts])


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    columns = {name: [part[name] for part in parts] for name in parts[0]}
    return {name: None if column[0] is None else torch.cat(column) for name, column in columns.items()}
