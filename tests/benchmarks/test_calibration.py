from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "calibration.py"


@pytest.fixture(scope="module")
def calibration():
    spec = importlib.util.spec_from_file_location("calibration", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["calibration"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["calibration"]


def test_arms_are_disjoint_parts_of_the_same_completions(calibration):
    scores = np.arange(7 * 12, dtype=float).reshape(7, 12)
    arms = calibration.Pool(scores).draw(np.random.default_rng(0), 7, 2, 3, 2)
    assert arms.shape == (2, 3, 7)
    assert sorted(arms.sum(axis=(0, 1)) * 2) == pytest.approx(list(scores.sum(axis=1)))


def test_the_generator_has_the_moments_it_was_fitted_to(calibration):
    scores = calibration.Generator(0.3, 10.0, 0.8).draw(np.random.default_rng(1), 3000, 30, 1, 1)[:, 0].T
    # Variance of beta prompts m (1 - m) / (count + 1); the rest of m (1 - m) lies within prompts, shrunk by 0.8 + 1.
    assert scores.var() == pytest.approx(0.21 / 11 + (0.21 - 0.21 / 11) / 1.8, rel=0.03)
    fitted = calibration.fit(scores)
    assert (fitted.mean, fitted.prompt_count) == pytest.approx((0.3, 10.0), rel=0.06)
    assert fitted.completion_count == pytest.approx(0.8, rel=0.06)


def test_a_spread_of_seeds_that_is_passed_over_would_show(calibration, monkeypatch):
    # The planted fault: seeds that differ, called one policy. More than a third of all comparisons are alarms then.
    cell = calibration.Cell("fitted", 400, 25, 3, "three times the variance", "trained")
    source = calibration.Generator(**calibration.FITTED)
    honest = calibration.measure(cell, source, 40, 0)
    assert honest.false_alarm_rate < 0.15
    real = calibration.Pair
    monkeypatch.setattr(calibration, "Pair", lambda mine, theirs, *_: real(mine, theirs, False, False))
    assert calibration.measure(cell, source, 40, 0).false_alarm_rate > 0.3


def test_one_line_with_the_worst_cells_and_a_table(calibration, monkeypatch, capsys, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- off the grid -->\n<!-- end of off the grid -->\n"
        "<!-- table -->\nold\n<!-- end of table -->\nafter\n"
    )
    designs = {"worst": lambda n, seed: (0.081, 0.011), "careful": lambda n, seed: (0.01, 0.0)}
    designs["honest"] = lambda n, seed: (n / 1000 + seed,)
    monkeypatch.setattr(calibration.off_the_grid, "DESIGNS", designs)
    cells = [calibration.Cell("fitted", 50, 1, seeds, "none", "trained") for seeds in (1, 3)]
    monkeypatch.setattr(calibration, "grid", lambda sources: iter(cells))
    monkeypatch.setattr(sys, "argv", ["calibration.py", "--families", "20", "--comparisons", "9", "--write", str(page)])
    calibration.main()
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == [
        "false_alarm_rate", "false_alarm_rate_01", "accused_rate",
        "coverage", "mde_relative_error", "familywise_rate", "n_comparisons",
    ]  # fmt: skip
    assert printed["n_comparisons"] == 60
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("before", "after", 18)
    assert lines[4:6] == ["| worst | 0.081 * | 0.011 |", "| careful | 0.010 (careful) | 0.000 |"]
    assert lines[9] == "| honest | 0.009 |"
    assert (printed["false_alarm_rate"], printed["accused_rate"]) == (0.081, 0.009)
    each = [calibration.measure(cell, calibration.Generator(**calibration.FITTED), 20, 0) for cell in cells]
    assert printed["familywise_rate"] == max(one.familywise_rate for one in each)
    assert printed["coverage"] == min(one.coverage for one in each)


@pytest.fixture(scope="module")
def off_the_grid(calibration):
    return calibration.off_the_grid


def test_seeds_that_tie_do_tie(off_the_grid):
    pair = off_the_grid.rare_events(np.random.default_rng(0), 0.02, True, True)
    assert pair.values.sum(axis=1).tolist() == [pair.values[0].sum()] * 2
    assert pair.baseline.sum(axis=1).tolist() == [pair.baseline[0].sum()] * 2
    assert set(np.unique(pair.values)) == {0.0, 1.0}


def test_variants_that_are_passed_over_would_show(off_the_grid):
    # The planted fault: four variants of one text taken for four witnesses.
    sizes = np.full(100, 4)

    def draw(rng):
        return off_the_grid.copies(rng, sizes, 0.2)

    naive, _ = off_the_grid.alarms(draw, 300, 0)
    grouped, _ = off_the_grid.alarms(draw, 300, 0, np.repeat(np.arange(100), sizes))
    assert grouped < 0.09 < naive


def test_every_design_gives_shares(off_the_grid):
    for name, design in off_the_grid.DESIGNS.items():
        found = design(3, 0)
        assert len(found) == (1 if name.endswith("accused") else 2)
        assert all(0 <= one <= 1 for one in found)
