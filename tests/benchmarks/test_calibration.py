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
    page.write_text("before\n<!-- table -->\nold\n<!-- end of table -->\nafter\n")
    cells = [calibration.Cell("fitted", 50, 1, seeds, "none", "trained") for seeds in (1, 3)]
    monkeypatch.setattr(calibration, "grid", lambda sources: iter(cells))
    monkeypatch.setattr(sys, "argv", ["calibration.py", "--families", "20", "--write", str(page)])
    calibration.main()
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == [
        "false_alarm_rate", "coverage", "mde_relative_error", "familywise_rate", "n_comparisons",
    ]  # fmt: skip
    assert printed["n_comparisons"] == 60
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("before", "after", 8)
    each = [calibration.measure(cell, calibration.Generator(**calibration.FITTED), 20, 0) for cell in cells]
    assert printed["familywise_rate"] == max(one.familywise_rate for one in each)
    assert abs(printed["coverage"] - 0.95) == max(abs(one.coverage - 0.95) for one in each)
