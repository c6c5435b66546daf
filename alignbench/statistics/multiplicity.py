"""Several tests at once: Holm's step-down adjustment."""

from __future__ import annotations

import math
from collections.abc import Sequence


def holm(p_values: Sequence[float | None], weights: Sequence[float] | None = None) -> list[float | None]:
    """Returns p values adjusted for one family of tests; None, a test that could not be done, stays None.

    With p sorted, the i-th smallest of m becomes max over j <= i of min(1, (m - j + 1) p_(j)) (Holm, Scandinavian
    Journal of Statistics 6, 1979). Rejecting where it is at most alpha keeps the chance of any false alarm in the
    family at alpha, whatever the dependence between the tests. Tests that could not be done do not count.

    With weights, said before anything is measured, that keeps: with p / w sorted, it is the maximum over j <= i of
    min(1, (w_(j) + ... + w_(m)) p_(j) / w_(j)) (the same paper, section 4).
    """
    shares = [1.0] * len(p_values) if weights is None else weights
    done = sorted((p / shares[place], place) for place, p in enumerate(p_values) if p is not None)
    left = math.fsum(shares[place] for _, place in done)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for ratio, place in done:
        largest = max(largest, min(1.0, left * ratio))
        adjusted[place] = largest
        left -= shares[place]
    return adjusted
