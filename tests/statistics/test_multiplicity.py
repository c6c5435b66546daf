from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from alignbench.statistics.multiplicity import holm


def closed_testing(p_values, weights=None):
    """Reject where Bonferroni, by weights, rejects every set that holds it (Marcus, Peritz and Gabriel 1976)."""
    m = len(p_values)
    w = [1.0] * m if weights is None else weights
    sets = [s for size in range(1, m + 1) for s in combinations(range(m), size)]
    return [
        max(min(1.0, min(p_values[j] * sum(w[k] for k in s) / w[j] for j in s)) for s in sets if i in s)
        for i in range(m)
    ]


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


def test_with_weights_by_hand():
    # Of 1, half is for the first and a quarter for each of the others: p / w is 0.02, 0.12, 0.04. In that order the
    # weights that are left are 1, 0.5 (third, then second) and 0.25: 0.02, 0.02 (0.5 x 0.04), 0.03 (0.25 x 0.12).
    assert holm([0.01, 0.03, 0.01], [0.5, 0.25, 0.25]) == pytest.approx([0.02, 0.03, 0.02])
    assert holm([0.04, 0.01, 0.03, 0.02], [2.0] * 4) == pytest.approx(holm([0.04, 0.01, 0.03, 0.02]))
    assert holm([0.01, None, 0.01], [0.5, 9.0, 0.25]) == pytest.approx([0.015, None, 0.015])


def test_with_weights_against_closed_testing():
    rng = np.random.default_rng(1)
    for m in (2, 3, 5):
        for _ in range(50):
            p, weights = list(rng.beta(0.3, 1, m)), list(rng.uniform(0.1, 2, m))
            assert holm(p, weights) == pytest.approx(closed_testing(p, weights))


def test_what_was_not_tested_does_not_count():
    assert holm([0.02, None, 0.03, None]) == [pytest.approx(0.04), None, pytest.approx(0.04), None]
    assert holm([None]) == [None]
