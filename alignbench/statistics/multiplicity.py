"""Several tests at once: Holm's step-down adjustment."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p values adjusted for one family of tests; None, a test that could not be done, stays None.

    With p sorted, the i-th smallest of m becomes max over j <= i of min(1, (m - j + 1) p_(j)) (Holm, Scandinavian
    Journal of Statistics 6, 1979). Rejecting where it is at most alpha keeps the chance of any false alarm in the
    family at alpha, whatever the dependence between the tests. Tests that could not be done do not count.
    """
    done = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(done):
        largest = max(largest, min(1.0, (len(done) - rank) * p))
        adjusted[place] = largest
    return adjusted
