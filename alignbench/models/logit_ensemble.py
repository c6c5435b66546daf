"""Language models that write one text together: the next token comes from a function of all their logits.

Shapes: b sequences, t completion positions, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from alignbench.errors import ModelError
from alignbench.models.flops import tokens_of, weights_of
from alignbench.models.forward import SequenceBatch, completion_forward, token_logprobs
from alignbench.models.language_model import LanguageModel
from alignbench.models.output_layer import rows_that_fit
from alignbench.models.sampling.side_by_side import SideBySide
from alignbench.models.sampling.token_draw import NEVER, sampling_support
from alignbench.records import Completion, Cost, Decoding, Prompt
from alignbench.runtime.randomness import Key


class ContrastedModels(SideBySide):
    """A base, an expert and an anti-expert: z = z_base + alpha (z_expert - z_anti), among the base's likely tokens."""

    def __init__(self, base: nn.Module, expert: nn.Module, anti_expert: nn.Module, alpha: float, top_p: float) -> None:
        super().__init__([base, expert, anti_expert])
        self.alpha, self.nucleus = alpha, Decoding(1, top_p=top_p)

    def combined(self, logits: Sequence[Tensor], chosen: Tensor | None = None) -> Tensor:
        """Logits (b, t, V) in float32 of three logits; `NEVER` for what is not among the base's `top_p`.

        Tokens `chosen` (b, t) count as likely in any case: they were drawn step by step, where rounding can let one
        pass a border that it misses in a pass over the whole.
        """
        base, expert, anti_expert = (one.float() for one in logits)
        z = base + self.alpha * (expert - anti_expert)
        support = sampling_support(base, self.nucleus, None)
        if support is None:
            return z
        if chosen is not None:
            support = support.scatter(-1, chosen.unsqueeze(-1), True)
        return z.masked_fill(~support, NEVER)


class LogitEnsemble(LanguageModel):
    """A base as it sees prompts and texts, with two more models that have a say in every token."""

    def __init__(
        self, base: LanguageModel, expert: LanguageModel, anti_expert: LanguageModel, alpha: float, top_p: float
    ) -> None:
        """Puts three causal models with one vocabulary together; ModelError where they have several."""
        self.__dict__.update(base.__dict__)
        self.parts = base, expert, anti_expert
        for role, other in (("expert", expert), ("anti_expert", anti_expert)):
            _check_words(base, other, role)
        self.model = ContrastedModels(base.model, expert.model, anti_expert.model, alpha, top_p)
        self.spent = Cost()

    @property
    def alpha(self) -> float:
        """How strongly the two are heard."""
        return self.model.alpha  # type: ignore[no-any-return]

    @property
    def top_p(self) -> float:
        """What is kept of the base's distribution."""
        return self.model.nucleus.top_p  # type: ignore[no-any-return]

    def generate(self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Key) -> list[Completion]:
        """Samples completions; where the base's distribution is cut already, it is not cut by top-p once more."""
        once = replace(decoding, top_p=1.0) if self.top_p < 1 else decoding
        return super().generate(prompts, once, n_samples, key)

    @torch.no_grad()
    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Tensor]:
        """Log-probabilities in nats of what is sampled, one float32 CPU tensor (len(token_ids),) per completion."""
        longest = max((len(one.token_ids) for one in completions), default=1)
        size = min(self.batch_size, max(1, rows_that_fit(self.parts[0].model, 3 * longest)))
        found: list[Tensor] = []
        for start in range(0, len(completions), size):
            batch = self.batch(prompts[start : start + size], completions[start : start + size])
            values = token_logprobs(self._logits(batch), batch.completion_ids).cpu()
            found += [row[mask] for row, mask in zip(values, batch.completion_mask.cpu(), strict=True)]
        return found

    @torch.no_grad()
    def next_token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Tensor]:
        """Log-probabilities in nats of every word before each token: a float64 CPU tensor (len(token_ids), V) each.

        Minus infinity for what cannot be drawn.
        """
        batch = self.batch(prompts, completions)
        logits = self._logits(batch)[batch.completion_mask].double().cpu()
        logprobs = logits.masked_fill(logits <= NEVER, -torch.inf).log_softmax(dim=-1)
        return list(torch.split(logprobs, [len(completion.token_ids) for completion in completions]))

    def _logits(self, batch: SequenceBatch) -> Tensor:
        """Combined logits (b, t, V) by a full pass of each model, which is counted."""
        self.spent.forward_flops += weights_of(self.model).flops(tokens_of(batch))
        logits = [completion_forward(one.model, batch)[0] for one in self.parts]
        ensemble: ContrastedModels = self.model
        return ensemble.combined(logits, batch.completion_ids)


def _check_words(base: LanguageModel, other: LanguageModel, role: str) -> None:
    if base.is_encoder_decoder or other.is_encoder_decoder:
        raise ModelError(f"builds_on.{role}: {other.name!r} and {base.name!r} must both be causal models")
    if base.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise ModelError(
            f"builds_on.{role}: {other.name!r} has another vocabulary than {base.name!r}, expected the same tokens: "
            "their logits are added word by word"
        )
