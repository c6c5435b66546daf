"""How one token is drawn from the logits of a model.

Every draw is keyed by (key, prompt id, sample, position): the uniform numbers are, and a token is where the cumulative
probability passes its uniform number.

Shapes: b sequences, t completion positions, V words of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from alignbench.records import Decoding
from alignbench.runtime.randomness import Key, generator

NEVER = -1e9
"""The logit of what cannot be drawn: its probability is 0, and products with it are finite."""
EosId = int | Sequence[int] | None
"""What ends a completion: a token, any of several, or none."""
_BLOCK = 256
"""Tokens of the vocabulary whose weights are summed at once."""


def end_tokens(eos_id: EosId) -> tuple[int, ...]:
    """The tokens that end a completion."""
    if eos_id is None:
        return ()
    return (eos_id,) if isinstance(eos_id, int) else tuple(eos_id)


def uniforms(key: Key, rows: Sequence[tuple[str, int]], n: int) -> Tensor:
    """Uniform numbers in [0, 1), (b, n) float64: one stream for each (prompt id, sample)."""
    return torch.stack([torch.from_numpy(generator(*key, prompt_id, sample).random(n)) for prompt_id, sample in rows])


@torch.no_grad()
def sampling_support(logits: Tensor, decoding: Decoding, eos_id: EosId) -> Tensor | None:
    """Which tokens can be sampled at the first t positions of completions, given raw logits (b, t, V).

    Returns booleans (b, t, V); (1, t, V) where only the end-of-sequence tokens are banned; None where nothing is.
    """
    t, n_words = logits.shape[1:]
    ends = end_tokens(eos_id)
    n_banned = min(decoding.min_new_tokens, t) if ends else 0
    if decoding.keeps_all(n_words):
        if not n_banned:
            return None
        support = torch.ones((1, t, n_words), dtype=torch.bool, device=logits.device)
        support[:, :n_banned, list(ends)] = False
        return support
    # One position at a time, as in sampling: a sort of all of them would need much memory.
    kept = [
        _support(logits[:, i].float() / decoding.temperature, decoding, ends if i < n_banned else ()) for i in range(t)
    ]
    return torch.stack([one for one in kept if one is not None], dim=1)


def _support(
    scaled: Tensor, decoding: Decoding, banned: Sequence[int], probabilities: Tensor | None = None
) -> Tensor | None:
    """Tokens that are kept of logits over temperature (b, V): none of `banned`, then top-k, then top-p of what is left.

    `probabilities` (b, V) are those of the logits, where they are at hand.

    Top-k keeps what ties with the last of the k (Fan et al. 2018). Top-p keeps the smallest set of most likely tokens
    whose probability reaches p (Holtzman et al. 2020).
    """
    support = None
    if banned:
        support = torch.ones_like(scaled, dtype=torch.bool)
        support[:, list(banned)] = False
        scaled = scaled.masked_fill(~support, -torch.inf)
    if 0 < decoding.top_k < scaled.shape[-1]:
        support = scaled >= scaled.topk(decoding.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(~support, -torch.inf)
    if decoding.top_p < 1.0:
        if support is not None or probabilities is None:
            probabilities = scaled.softmax(dim=-1)
        support = _nucleus(probabilities, decoding.top_p)
    return support


def _nucleus(probabilities: Tensor, p: float) -> Tensor:
    """The smallest set of most likely tokens whose probability reaches p: (b, V) -> (b, V), booleans.

    Among tokens of the same probability at its border the first ones are in it.
    """
    ordered = _descending(probabilities)
    # A sum reaches p where it passes the number before p.
    last = inverse_cdf(ordered, ordered.new_full((len(ordered),), math.nextafter(p, 0.0), dtype=torch.float64))
    least = ordered.gather(-1, last.unsqueeze(-1))
    kept = probabilities >= least
    after = ordered.gather(-1, (last + 1).clamp(max=ordered.shape[-1] - 1).unsqueeze(-1))
    is_tied = (after == least).squeeze(-1)  # something beyond the border is as likely as what is within
    if ordered.device.type == "cpu":  # a look waits for a GPU
        if not is_tied.any():
            return kept
        kept[is_tied] = _first_ones(probabilities[is_tied], least[is_tied], last[is_tied] + 1)
        return kept
    return _first_ones(probabilities, least, last + 1)


def _first_ones(probabilities: Tensor, least: Tensor, n: Tensor) -> Tensor:
    """The n (b,) most likely tokens, of which the last ones have the probability `least` (b, 1): (b, V), booleans."""
    above, tied = probabilities > least, probabilities == least
    n_tied = n - above.sum(dim=-1)
    last_tied = inverse_cdf(tied, (n_tied - 0.5) / tied.sum(dim=-1)).unsqueeze(-1)
    return above | (tied & (torch.arange(tied.shape[-1], device=tied.device) <= last_tied))


def _descending(values: Tensor) -> Tensor:
    """Sorted along the last dimension, largest first; on a CPU by numpy, which takes a tenth of torch's time."""
    if values.device.type != "cpu":
        return values.sort(dim=-1, descending=True).values
    ordered = -values.detach()
    ordered.numpy().sort(axis=-1)
    return ordered.neg_()


def inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """The token at which the cumulative weight passes the share u of the whole: (b, V), (b,) -> (b,).

    Never one of weight 0, but any token where weights are not finite. It takes one pass over the vocabulary, which adds
    up blocks of tokens; their sums, and those within one block, are added in float64.
    """
    n_words = weights.shape[-1]
    n_whole = n_words // _BLOCK
    sums = weights[:, : n_whole * _BLOCK].view(len(weights), n_whole, _BLOCK).sum(dim=-1)
    if n_whole * _BLOCK < n_words:
        sums = torch.cat((sums, weights[:, n_whole * _BLOCK :].sum(dim=-1, keepdim=True)), dim=-1)
    cumulative = sums.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    target = torch.minimum(u.unsqueeze(-1) * total, total.nextafter(torch.zeros_like(total)))
    block = torch.searchsorted(cumulative, target, right=True).clamp(max=n_whole)
    before = cumulative.gather(-1, (block - 1).clamp(min=0)).masked_fill(block == 0, 0.0)
    places = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    within = weights.gather(-1, places.clamp(max=n_words - 1)).masked_fill(places >= n_words, 0).double()
    sums_within = within.cumsum(dim=-1)
    last = torch.searchsorted(sums_within, sums_within[:, -1:].contiguous())  # where rounding passes the block's end
    inside = torch.searchsorted(sums_within, target - before, right=True)
    return (block * _BLOCK + torch.minimum(inside, last)).clamp(max=n_words - 1).squeeze(-1)


def at_temperature(logits: Tensor, decoding: Decoding) -> Tensor:
    """Logits (b, V) in float32 over the sampling temperature; the same memory where that changes nothing."""
    scaled = logits.float()
    return scaled if decoding.temperature == 1.0 else scaled / decoding.temperature


def draw(scaled: Tensor, u: Tensor, decoding: Decoding) -> tuple[Tensor, Tensor]:
    """Tokens (b,) drawn with uniforms u (b,), and probabilities (b, V) without top-k and top-p.

    Args:
        scaled: Logits (b, V) from `at_temperature`; `NEVER` for what is banned.
        u: In [0, 1).
        decoding: Its top-k and top-p; temperature and minimum length are in `scaled`.
    """
    probabilities = scaled.softmax(dim=-1)
    support = None if decoding.keeps_all(scaled.shape[-1]) else _support(scaled, decoding, (), probabilities)
    kept = probabilities if support is None else torch.where(support, probabilities, 0.0)
    return inverse_cdf(kept, u), probabilities


def logprob_and_entropy(token: Tensor, scaled: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Of tokens (b,) and of what they were drawn from, logits and probabilities (b, V): nats, (b,) each."""
    chosen = token.unsqueeze(-1)
    logprob = probabilities.gather(-1, chosen).squeeze(-1).log()
    log_total = scaled.gather(-1, chosen).squeeze(-1) - logprob
    return logprob, log_total - torch.linalg.vecdot(probabilities, scaled)
