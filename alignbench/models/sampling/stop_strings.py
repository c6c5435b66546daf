"""Where a completion ends: at an end-of-sequence token, or at a text that completes a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

from alignbench.models.sampling.capture import Sampled
from alignbench.records import Decoding


def content(drawn: Sampled) -> tuple[int, ...]:
    """The tokens of a completion without the one that ended it, which need not be a special token."""
    return drawn.token_ids[: -1 if drawn.finish_reason == "eos" else None]


def ended_at_stop_string(drawn: Sampled, decoding: Decoding, as_text: Callable[[Sequence[int]], str]) -> Sampled:
    """Cuts a completion after the first token, from `min_new_tokens` on, that completes a stop string.

    Every position has a draw of its own, so what is left is what stopping while sampling would have given.
    Special tokens count as text here, so `as_text` keeps them: `<|im_end|>` can be a stop string.
    """
    tokens = content(drawn)
    whole = as_text(tokens) if decoding.stop_strings else ""
    if not any(stop in whole for stop in decoding.stop_strings):
        return drawn
    first = max(1, decoding.min_new_tokens)
    before = as_text(tokens[: first - 1])
    for n_tokens in range(first, len(tokens) + 1):
        now = as_text(tokens[:n_tokens])
        n_same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False)))
        if any(now.find(stop, max(0, n_same - len(stop) + 1)) >= 0 for stop in decoding.stop_strings):
            return Sampled(tokens[:n_tokens], "stop")
        before = now
    return drawn
