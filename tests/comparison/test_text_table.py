from __future__ import annotations

import random

import pytest

from alignbench.comparison.document import Section
from alignbench.comparison.text_table import folded, in_full

HEADERS = ("recipe", "verdict", "wall seconds", "toxicity_mean@judge", "KL", "")
CELLS = ("0.31", "-", "", "0.31 [0.2, 0.4]", "not distinguishable", "[bold]x[/bold]", ":smile:", "two  gaps")


def test_a_table_that_fits_is_as_the_library_has_it():
    rng, n_full = random.Random(1), 0
    for _ in range(100):
        n = rng.randint(1, 6)
        rows = [rng.choices(CELLS, k=n) for _ in range(rng.randint(1, 4))]
        section = Section("runs", rng.choice(("1 complete, 2 not", "t")), rng.choices(HEADERS, k=n), rows, [])
        lines = in_full(section)
        n_full += lines is not None
        assert lines in (None, folded(section))
    assert n_full > 50


@pytest.mark.parametrize("cell", ["x" * 130, "two\nlines", "größer", "trailing ", "\x1b[1mbold"])
def test_what_does_not_fit_is_left_to_the_library(cell):
    assert in_full(Section("runs", "title", ["recipe", "seed"], [[cell, "0"]], [])) is None
    assert in_full(Section("runs", "a title that is wider", ["recipe", "seed"], [["a", "0"]], [])) is None
