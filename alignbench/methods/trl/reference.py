"""The reference of a training in several epochs, asked once before it: it says the same of a pair in every epoch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from alignbench.models.flops import Tokens, weights_of
from alignbench.records import Cost

_NO_BAR = "TQDM_DISABLE"


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Within the block TRL shows no progress bar of its own."""
    before = os.environ.get(_NO_BAR)
    os.environ[_NO_BAR] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NO_BAR]
        else:
            os.environ[_NO_BAR] = before


def cost_of_one_pass(model: Any, rows: Sequence[Mapping[str, Any]]) -> Cost:
    """What a pass without gradients over pairs costs, given as `collator.preference_rows`."""
    sampled = [row["sampled"] for row in rows]
    n_completion = sum(len(one[kind]) for one in sampled for kind in ("chosen", "rejected"))
    n_prompt = 2 * sum(len(one["prompt"]) for one in sampled)
    return Cost(forward_flops=weights_of(model).flops(Tokens(n_prompt, n_completion, n_completion)))
