from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from alignbench.statistics.multiplicity import holm


def closed_testing(p_values):
    """Reject a hypothesis when Bonferroni rejects every set that holds it (Marcus, Peritz and Gabriel 1976)."""
    m = len(p_values)
    sets = [s for size in range(1, m + 1) for s in combinations(range(m), size)]
    return [max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets if i in s) for i in range(m)]


def test_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04, the last raised to 0.06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.3]) == [0.3]
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_against_closed_testing():
    rng = np.random.default_rng(0)
    for m in (2, 3, 5):
        for _ in range(50):
            p = list(rng.beta(0.3, 1, m))
            assert holm(p) == pytest.approx(closed_testing(p))


def test_what_was_not_tested_does_not_count():
    assert holm([0.02, None, 0.03, None]) == [pytest.approx(0.04), None, pytest.approx(0.04), None]
    assert holm([None]) == [None]
