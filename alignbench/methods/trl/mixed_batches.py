"""Batches in which both kinds of labelled completions stand, for losses that compare the two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from alignbench.errors import TrainingError
from alignbench.runtime.randomness import generator


def wanted_in_a_batch(labels: Sequence[bool], batch_size: int) -> int:
    """Returns how many of a batch are wanted: their share of all, but one of either kind at least.

    Raises:
        TrainingError: All have one label.
    """
    n_wanted = sum(labels)
    if not 0 < n_wanted < len(labels):
        raise TrainingError(f"{n_wanted} of {len(labels)} completions are wanted, expected some that are and some not")
    return min(max(1, round(batch_size * n_wanted / len(labels))), batch_size - 1)


def mixed_batches(labels: Sequence[bool], batch_size: int, epochs: int, seed: int) -> list[int]:
    """Lays labelled rows out in batches, each with the same number of wanted ones; drawn by the seed alone.

    A random order has batches of one label: at 10 % wanted and batches of 8, 43 % of them. Either kind is gone through
    in shuffled order, again and again, until `epochs` times the rows are laid out; so where a batch has more of a kind
    than its share, to have one at all, that kind repeats earlier than the other.

    Args:
        labels: Of each row, whether it is wanted.
        batch_size: Rows of a batch, 2 or more.
        epochs: Passes over as many rows as there are.
        seed: Decides the order.

    Returns:
        Indices of rows, as many as whole batches need, the wanted ones spread evenly over each batch.
    """
    n_wanted = wanted_in_a_batch(labels, batch_size)
    counts = {True: n_wanted, False: batch_size - n_wanted}
    streams = {kind: _endless([i for i, label in enumerate(labels) if label is kind], seed, kind) for kind in counts}
    places = sorted(((i + 0.5) / n, kind) for kind, n in counts.items() for i in range(n))
    n_batches = math.ceil(epochs * len(labels) / batch_size)
    return [next(streams[kind]) for _ in range(n_batches) for _, kind in places]


def _endless(rows: Sequence[int], seed: int, kind: bool) -> Iterator[int]:
    for i in range(2**31):
        yield from (rows[place] for place in generator(seed, "labelled", kind, i).permutation(len(rows)).tolist())
