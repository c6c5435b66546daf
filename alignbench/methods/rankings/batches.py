"""Ranked completions as token ids, in batches whose order is a function of the seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from alignbench.models.forward import SequenceBatch, collate, to_device
from alignbench.records import RankedCompletions
from alignbench.runtime.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.models.language_model import LanguageModel
    from alignbench.records import PreferencePair


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A prompt and its completions, best first."""

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]
    ranks: Sequence[int]

    def values(self) -> dict[str, Any]:
        """All of it, JSON-like."""
        return {"prompt": self.prompt, "completions": self.completions, "ranks": self.ranks}


def pairs_as_rankings(pairs: Sequence[PreferencePair]) -> list[RankedCompletions]:
    """Returns every pair as a ranking of two."""
    return [RankedCompletions(pair.prompt, (pair.chosen, pair.rejected), (0, 1)) for pair in pairs]


def token_rows(ranked: Sequence[RankedCompletions], policy: LanguageModel) -> list[TokenRow]:
    """Returns prompts as the policy sees them, with completions as they were sampled."""
    return [
        TokenRow(policy.encode_prompt(one.prompt), [list(c.token_ids) for c in one.completions], one.ranks)
        for one in ranked
    ]


def steps_of(n_rows: int, batch_size: int, epochs: int) -> int:
    """Returns the optimizer steps of a training; the last batch of an epoch may be smaller than others."""
    return epochs * math.ceil(n_rows / batch_size)


def rows_of_step(n_rows: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Returns the rows of step `step` (from 0), by the seed alone: each row once an epoch, shuffled anew in each."""
    epoch, place = divmod(step, math.ceil(n_rows / batch_size))
    order = generator(seed, "order", epoch).permutation(n_rows).tolist()
    return [int(i) for i in order[place * batch_size : (place + 1) * batch_size]]


@dataclass(frozen=True, slots=True)
class RankedBatch:
    """Some prompts with all their completions, laid out for one pass."""

    sequences: SequenceBatch
    """A row for every completion, prompt by prompt, best first."""
    places: Tensor
    """(b, n) bool, True where a prompt has a completion."""
    ranks: Tensor
    """(b, n)."""

    def laid_out(self, values: Tensor) -> Tensor:
        """Values of the completions, one each, as (b, n); 0 where there is none."""
        return values.new_zeros(self.places.shape).masked_scatter(self.places, values)


def passes_of(rows: Sequence[TokenRow], at_once: int, policy: LanguageModel) -> Iterator[RankedBatch]:
    """Yields the rows of a batch, up to `at_once` prompts to a pass."""
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        n = max(len(row.completions) for row in part)
        places = torch.tensor([[i < len(row.completions) for i in range(n)] for row in part])
        ranks = torch.tensor([[*row.ranks, *[n] * (n - len(row.ranks))] for row in part])
        yield RankedBatch(
            collate(
                [row.prompt for row in part for _ in row.completions],
                [one for row in part for one in row.completions],
                policy.pad_id,
                policy.device,
                for_encoder=policy.is_encoder_decoder,
            ),
            to_device(places, policy.device),
            to_device(ranks, policy.device),
        )
