"""Estimated FLOPs of a pass, from the weights of a network and the tokens that go through it.

A weight that is multiplied with a token costs two operations forward, two more for the gradient of what it was
multiplied with, and two for its own gradient where it is trained (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
So a full update costs 6 N per token, and one of a LoRA adapter about 4 N. Embeddings that are looked up do not
multiply; an output layer does, on the positions that predict a token.

Counted are real tokens, not padding, and no activations that are computed a second time to save memory: the work that
the method asks for, not what an implementation makes of it (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
Left out are the products of attention scores, about s / (6 h) of a forward pass for s tokens and hidden size h, biases,
norms and softmax. Of a mixture of experts every expert is counted, busy or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from alignbench.models.forward import base_model, is_encoder_decoder
from alignbench.models.quantization import n_weights
from alignbench.models.sampling.side_by_side import networks_of

if TYPE_CHECKING:
    from alignbench.models.forward import SequenceBatch


@dataclass(frozen=True, slots=True)
class Tokens:
    """Real tokens of some sequences, summed over them."""

    prompt: int
    completion: int
    predicted: int
    """Positions whose next token is predicted."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a network by the tokens that they are multiplied with."""

    prompt: int
    """An encoder's, or all but the output layer's where prompt and completion are one sequence."""
    completion: int
    """A decoder's, or the same as `prompt`."""
    head: int
    """The output layer's."""

    def flops(self, tokens: Tokens) -> float:
        """A multiplication and an addition for each weight and token: a forward pass, or either gradient."""
        return 2.0 * (self.prompt * tokens.prompt + self.completion * tokens.completion + self.head * tokens.predicted)


def weights_of(model: Any, *, trained: bool = False, without: Iterable[nn.Module] = ()) -> Weights:
    """Counts the weights of a network that multiply: matrices, without embeddings that are only looked up.

    The key and value projections by which a decoder reads an encoder's output count for the decoder's tokens.

    Args:
        model: A language model or classifier, with or without an adapter.
        trained: Count only those that take gradients.
        without: Parts to leave out.
    """
    if networks := networks_of(model):
        each = [weights_of(network, trained=trained, without=without) for network in networks]
        return Weights(*(sum(getattr(one, name) for one in each) for name in ("prompt", "completion", "head")))
    inner = base_model(model)
    head = getattr(inner.get_output_embeddings(), "weight", None)
    skipped = {id(p) for part in without for p in part.parameters()}
    skipped |= {id(p) for part in model.modules() if isinstance(part, nn.Embedding) for p in part.parameters()}
    encoder = {id(p) for p in inner.get_encoder().parameters()} if is_encoder_decoder(inner) else set()
    in_encoder, elsewhere = 0, 0
    for p in model.parameters():
        if p.dim() < 2 or p is head or id(p) in skipped or (trained and not p.requires_grad):
            continue
        if id(p) in encoder:
            in_encoder += n_weights(p)
        else:
            elsewhere += n_weights(p)
    n_head = 0 if head is None or (trained and not head.requires_grad) else head.numel()
    return Weights(in_encoder if encoder else elsewhere, elsewhere, n_head)


def tokens_of(batch: SequenceBatch) -> Tokens:
    """What one full pass reads and predicts; a causal model does not read the last token of a sequence."""
    n_prompt, n_completion = batch.lengths.sum(dim=0).tolist()
    return Tokens(n_prompt, n_completion - (0 if batch.for_encoder else len(batch)), n_completion)


def sampling_flops(model: Any, prompt_tokens: int, new_tokens: int, n_completions: int) -> float:
    """FLOPs of sampling with a key-value cache: every prompt is read once, and every token but the last."""
    n_read = new_tokens if is_encoder_decoder(model) else new_tokens - n_completions
    return weights_of(model).flops(Tokens(prompt_tokens, n_read, new_tokens))
