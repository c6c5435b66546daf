"""Log-probabilities of given tokens where the vocabulary is so large that logits would fill the memory.

With 262,144 words the logits of 16 completions of 30 tokens take half a gigabyte, and log-softmax and gradients as much
again, several times. What most passes want of them is one number a token. Here it comes straight from the states
under the output layer, a block of words at a time, and so does its gradient (Milakov and Gimelshein 2018,
arXiv:1805.02867, for the running maximum and sum):

    log p(y) = z_y - log sum_v exp z_v;  d log p(y) / d h = (sum_v (1[v = y] - p(v)) z'_v w_v)

z_v = f(w_v h + b_v), f what the model makes of the layer's output (a scale, a soft cap) over the temperature. The sums
need each word once, so no product is computed a second time for the gradient.

Shapes: b sequences, t completion positions, n = b t states, h their size, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from alignbench.models.fast.layers import FastLinear
from alignbench.models.forward import SequenceBatch, base_model, collate, completion_forward, token_logprobs
from alignbench.models.sampling.token_draw import NEVER, EosId, end_tokens
from alignbench.models.shared_prompts import completion_logits

MOST_BYTES = 2**28
"""The size from which logits are not made whole: two tensors of it are half a gibibyte."""
BLOCK_BYTES = 2**25
"""Logits that are at hand at once; twice and half of it took 1.08 and 1.03 of the time."""
LEAST_WORDS = 256
_PLAIN = (nn.Linear.forward, FastLinear.forward)
"""A subclass of nn.Linear may do otherwise: scale its weight to unit length, or round it."""
_PROBE = (-60.0, -30.0, -3.0, -0.5, 0.0, 0.5, 3.0, 60.0)


def n_words(model: Any) -> int:
    """Words that a language model has logits of."""
    head = base_model(model).get_output_embeddings()
    found = getattr(head, "out_features", None)
    return int(base_model(model).config.get_text_config().vocab_size if found is None else found)


def rows_that_fit(model: Any, n_positions: int) -> int:
    """Completions of so many tokens whose logits in float32 take at most `MOST_BYTES`; 0 where one takes more."""
    return MOST_BYTES // (4 * n_words(model) * n_positions)


@dataclass(frozen=True, slots=True)
class OutputLayer:
    """The last layer of a language model, and what the model makes of its output x: cap * tanh(scale * x / cap)."""

    linear: nn.Linear
    scale: float = 1.0
    cap: float | None = None

    @property
    def is_frozen(self) -> bool:
        """True where it takes no gradients itself."""
        return not any(p.requires_grad for p in self.linear.parameters())

    def shaped(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the model makes of the layer's output, in its place; and its derivative over the scale, None for 1."""
        if self.scale != 1.0:
            x.mul_(self.scale)
        if self.cap is None:
            return x, None
        x.div_(self.cap).tanh_()
        slope = 1 - x * x
        return x.mul_(self.cap), slope

    @contextmanager
    def passed_by(self, answer: Tensor | None = None) -> Iterator[list[Tensor]]:
        """Within the block it multiplies nothing: what it is given, (b, s, h), is appended to the yielded list.

        Its output is one column for all words: of zeros, or `answer` (b, s, 1).
        """
        given: list[Tensor] = []

        def keep(states: Tensor) -> Tensor:
            given.append(states)
            return states.new_zeros((*states.shape[:-1], 1)) if answer is None else answer.to(states.dtype)

        self.linear.forward = keep  # type: ignore[assignment, method-assign]
        try:
            yield given
        finally:
            del self.linear.forward


def output_layer(model: Any) -> OutputLayer | None:
    """The output layer of a language model; None where it must be run as it is.

    That is so where it is adapted, quantized, in parts or hooked, or where the model does something to its output that
    no scale and no soft cap is, which two passes over a few tokens show.
    """
    linear = base_model(model).get_output_embeddings()
    is_plain = (
        isinstance(linear, nn.Linear)
        and type(linear).forward in _PLAIN
        and "forward" not in vars(linear)
        and not (linear._forward_hooks or linear._forward_pre_hooks)
        and type(linear.weight) is nn.Parameter
        and linear.weight.is_floating_point()
    )
    if not is_plain:
        return None
    device, sent = linear.weight.device, torch.tensor(_PROBE).view(1, -1, 1)
    batch = collate([[0]], [[0] * len(_PROBE)], 0, device)
    try:
        with torch.no_grad():
            with OutputLayer(linear).passed_by(sent.to(device)) as given:
                found = completion_forward(model, batch)[0].double().cpu()
            whole = completion_forward(model, batch)[0].float()
    except Exception:  # what a model raises that wants a column for each word has no common type
        return None
    if len(given) != 1 or found.shape != sent.shape:
        return None
    near = 1e-5 if linear.weight.itemsize >= 4 else 1e-2
    cap = getattr(base_model(model).config.get_text_config(), "final_logit_softcapping", None)
    layer = _layer_by(sent.double(), found, linear, cap, near)
    if layer is None:
        return None
    with torch.no_grad():
        expected = States(given[0][:, -len(_PROBE) :], layer).logits().float()
    # Some models cut off or mask the words that only fill up their vocabulary, which one column cannot show.
    is_all = expected.shape == whole.shape and (whole - expected).abs().max() <= near * expected.abs().max()
    return layer if is_all else None


def _layer_by(sent: Tensor, found: Tensor, linear: nn.Linear, cap: float | None, near: float) -> OutputLayer | None:
    """The output layer by what its model has made of what was sent; `cap` is what the configuration says."""
    if cap and torch.allclose(found, cap * torch.tanh(sent / cap), rtol=near):
        return OutputLayer(linear, cap=float(cap))
    scale = (found[0, -1] / sent[0, -1]).item()
    return OutputLayer(linear, scale) if torch.allclose(found, scale * sent, rtol=near) else None


Block = tuple[int, Tensor, Tensor, Tensor | None]
"""Of w words: the first one, their weights (w, h), z (n, w), and dz / dx over scale / temperature (None: 1)."""


@dataclass(frozen=True, slots=True)
class States:
    """What logits are made of: the input (b, t, h) of an output layer."""

    values: Tensor
    layer: OutputLayer

    def logits(self) -> Tensor:
        """All of them, (b, t, V)."""
        logits, scale, cap = self.layer.linear(self.values), self.layer.scale, self.layer.cap
        logits = logits if scale == 1.0 else logits * scale
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def logprobs(self, token_ids: Tensor, temperature: float = 1.0, banned: EosId = None, n_banned: int = 0) -> Tensor:
        """Log-probabilities in nats of tokens (b, t) under the logits over the temperature, in float32: (b, t).

        At the first `n_banned` positions the tokens `banned` have probability 0 and the others share what they had.
        Gradients go to the states; ValueError where the layer would need some itself.
        """
        if torch.is_grad_enabled() and not self.layer.is_frozen:
            raise ValueError("the output layer is trained: its own gradient needs whole logits")
        found: Tensor = _Logprobs.apply(  # type: ignore[no-untyped-call]
            self.values.flatten(0, 1) if torch.is_grad_enabled() else self.values.detach().flatten(0, 1),
            token_ids.flatten(),
            self,
            self.blocks(temperature, banned, n_banned),
            temperature,
        )
        return found.view(token_ids.shape)

    @property
    def dtype(self) -> torch.dtype:
        """What sums over the vocabulary are made in."""
        return torch.promote_types(self.values.dtype, torch.float32)

    @torch.no_grad()
    def blocks(self, temperature: float, banned: EosId, n_banned: int) -> Iterator[Block]:
        """A block of words after the other; what holds its z is used again for the next one."""
        b, t, size = self.values.shape
        states = self.values.detach().reshape(b * t, size)
        weight, bias = self.layer.linear.weight, self.layer.linear.bias
        at_start = (torch.arange(t, device=states.device) < n_banned).expand(b, t).reshape(-1, 1)
        width = max(LEAST_WORDS, BLOCK_BYTES // (4 * max(1, b * t)))
        room = states.new_empty(b * t * min(width, len(weight)))
        for first in range(0, len(weight), width):
            words = weight[first : first + width].detach()
            z = torch.mm(states, words.T, out=room[: b * t * len(words)].view(b * t, len(words)))
            if bias is not None:
                z += bias[first : first + width]
            z, slope = self.layer.shaped(z.to(self.dtype))
            if temperature != 1.0:
                z.div_(temperature)
            for end in end_tokens(banned) if n_banned else ():
                if first <= end < first + len(words):
                    z[:, end - first : end - first + 1].masked_fill_(at_start, NEVER)
            yield first, words, z, slope


@dataclass(frozen=True, slots=True)
class Compared:
    """Two distributions at every state, in float32: (b, t) each."""

    logprobs: Tensor
    """Of the given tokens, in nats."""
    reference_logprobs: Tensor
    kl: Tensor
    """KL(policy || reference) in nats, by the sum over the vocabulary."""
    entropy: Tensor
    """The policy's, in nats."""


@torch.no_grad()
def compare(
    policy: States, reference: States, token_ids: Tensor, temperature: float, banned: EosId, n_banned: int
) -> Compared:
    """What whole distributions are wanted for, of one output layer on the states of two models; see `States.logprobs`.

    KL = sum_v p(v) (z_v - r_v) - log sum_v exp z_v + log sum_v exp r_v;  H = log sum_v exp z_v - sum_v p(v) z_v
    """
    own, other = _Running(token_ids.flatten(), policy), _Running(token_ids.flatten(), reference)
    apart, mean = torch.zeros_like(own.total), torch.zeros_like(own.total)
    blocks = (one.blocks(temperature, banned, n_banned) for one in (policy, reference))
    for (first, _, z, _), (_, _, r, _) in zip(*blocks, strict=True):
        differences = z - r
        other.add(first, r, into=r)
        weights, shrunk = own.add(first, z, into=torch.empty_like(z))
        for total, values in ((apart, differences), (mean, z)):
            total.mul_(shrunk).add_(torch.linalg.vecdot(weights, values).unsqueeze(1))
    kl = apart / own.total - own.log_total() + other.log_total()
    found = (own.logprobs(), other.logprobs(), kl, own.log_total() - mean / own.total)
    return Compared(*(one.float().view(token_ids.shape) for one in found))


class _Running:
    """log sum_v exp z_v over the blocks so far, and z of the given tokens: (n, 1) each."""

    def __init__(self, token_ids: Tensor, states: States) -> None:
        self.token_ids = token_ids.unsqueeze(1)
        self.top = torch.full_like(self.token_ids, -torch.inf, dtype=states.dtype)
        self.total = torch.zeros_like(self.top, dtype=torch.float64)
        self.chosen = torch.zeros_like(self.top)

    def add(self, first: int, z: Tensor, into: Tensor) -> tuple[Tensor, Tensor]:
        """Takes in z (n, w) of the words from `first` on.

        Returns exp(z - top) (n, w), which is written into `into`, and by what earlier sums of such numbers are to be
        multiplied (n, 1), for the largest z so far, top, may have grown.
        """
        self.chosen = self.pick(first, z, self.chosen)
        before, self.top = self.top, torch.maximum(self.top, z.amax(dim=1, keepdim=True))
        shrunk = (before - self.top).exp_()
        weights = torch.sub(z, self.top, out=into).exp_()
        self.total.mul_(shrunk).add_(weights.sum(dim=1, keepdim=True))
        return weights, shrunk

    def pick(self, first: int, values: Tensor, otherwise: Tensor) -> Tensor:
        """The given tokens' values where they are among the words from `first` on."""
        place = self.token_ids - first
        is_here = (place >= 0) & (place < values.shape[1])
        return torch.where(is_here, values.gather(1, place.clamp(0, values.shape[1] - 1)), otherwise)

    def log_total(self) -> Tensor:
        """In float64."""
        return self.top + self.total.log()

    def logprobs(self) -> Tensor:
        """Of the given tokens, in float64."""
        return self.chosen - self.log_total()


class _Logprobs(torch.autograd.Function):
    """The formulas of the module; the derivative of each token's number is kept, (n, h), and scaled in `backward`."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, token_ids: Tensor, states: States, blocks: Iterable[Block], temperature: float
    ) -> Tensor:
        layer, wanted = states.layer, ctx.needs_input_grad[0]
        running = _Running(token_ids, states)
        mean = torch.zeros((len(values), values.shape[1] if wanted else 0), dtype=states.dtype, device=values.device)
        own_slope = torch.ones_like(running.top)
        for first, words, z, slope in blocks:
            weights, shrunk = running.add(first, z, into=z)
            if not wanted:
                continue
            if slope is not None:
                own_slope = running.pick(first, slope, own_slope)
                weights.mul_(slope)
            _add_product(mean.mul_(shrunk), weights, words)
        if wanted:
            own = own_slope * layer.linear.weight[token_ids].to(states.dtype)
            towards = own.sub_(mean.div_(running.total))
            ctx.save_for_backward(towards.mul_(layer.scale / temperature))
        ctx.dtype = values.dtype
        return running.logprobs().to(states.dtype).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (towards,) = ctx.saved_tensors
        return (towards * gradient.unsqueeze(1)).to(ctx.dtype), None, None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left @ right, in the precision of `right`."""
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left.to(right.dtype) @ right)


def batch_logprobs(model: Any, batch: SequenceBatch) -> Tensor:
    """Log-probabilities in nats of a batch's completion tokens by full passes without gradients, in float32: (b, t)."""
    t = batch.completion_mask.shape[1]
    fitting = rows_that_fit(model, t)
    layer = None if len(batch) <= fitting else output_layer(model)
    if layer is not None:
        with torch.no_grad(), layer.passed_by() as given:
            completion_forward(model, batch)
            return States(given[0][:, -t:], layer).logprobs(batch.completion_ids)
    parts = batch.split(max(1, fitting))
    return torch.cat([token_logprobs(completion_logits(model, part), part.completion_ids) for part in parts])
