"""What sampling draws, and what it keeps of the passes that it makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alignbench.records import FinishReason


@dataclass(slots=True)
class Capture:
    """What sampling sees of each token, for those who would otherwise run the model over it once more.

    Every list gets a tensor (b, t) for each batch that is sampled; what is after a completion means nothing.
    """

    values_of: Callable[[Tensor], Tensor] | None = None
    """Last hidden states (b, h) to values (b,); None where values are not wanted."""
    logprobs: list[Tensor] = field(default_factory=list)
    """Of the tokens in nats, at the sampling temperature, without top-k and top-p."""
    values: list[Tensor] = field(default_factory=list)
    """Of the states before the tokens."""
    entropy: list[Tensor] = field(default_factory=list)
    """In nats, of the distributions that `logprobs` are of."""

    def begin(self, n: int, longest: int, device: torch.device) -> Capture:
        """Makes room for a batch of n completions."""
        for kept in (self.logprobs, self.values, self.entropy):
            kept.append(torch.zeros((n, longest), device=device))
        return self

    def see(self, rows: Tensor, step: int, logprob: Tensor, entropy: Tensor, hidden: Tensor | None) -> None:
        """Keeps one step of the rows that are still being sampled; hidden states are there where values are wanted."""
        self.logprobs[-1][rows, step] = logprob
        self.entropy[-1][rows, step] = entropy
        if self.values_of is not None and hidden is not None:
            self.values[-1][rows, step] = self.values_of(hidden)


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sampled completion."""

    token_ids: tuple[int, ...]
    """The end-of-sequence token that was drawn included where `finish_reason` is `eos`."""
    finish_reason: FinishReason
