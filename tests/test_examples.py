"""The examples run as they stand."""

import json
import runpy
import sys
import warnings
from pathlib import Path

import pytest

from alignbench.records import MetricKey

EXAMPLE = Path(__file__).parents[1] / "examples" / "ppo_from_python.py"
RESULTS = Path(__file__).parent / "golden" / "results" / "v1_november"


def test_ppo_from_python(checkpoints, tmp_path, monkeypatch, capsys):
    arguments = [str(checkpoints / "policy"), "--steps", "2", "--save", str(tmp_path / "trained")]
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name, *arguments])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["1", "reward"], ["2", "reward"]]
    assert all(" KL " in line for line in lines)
    assert (tmp_path / "trained" / "adapter_model.safetensors").is_file()


def test_ppo_from_python_is_short():
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 40


def test_the_notebook_runs_from_top_to_bottom(monkeypatch):
    """Its cells one after the other, as a kernel runs them, on stored results."""
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    monkeypatch.setenv("ALIGNBENCH_RESULTS", str(RESULTS))
    notebook = json.loads((EXAMPLE.parent / "analysis.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    shown = []
    namespace = {"display": shown.append}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on runs that were killed, or damaged, on purpose
        for number, cell in enumerate(cells):
            exec(compile(cell, f"cell {number}", "exec"), namespace)
    frame, change = namespace["frame"], namespace["change"]
    row = frame[(frame.recipe == "ppo_detox") & (frame.metric == "toxicity_mean") & (frame.scorer == "judge")].iloc[0]
    [metric] = [one for one in namespace["comparison"].recipes if one.recipe == "ppo_detox"]
    assert row.value == metric.metrics[MetricKey("toxicity_mean", "judge")].value.value
    assert change["ppo_detox"].mean() < 0
    assert len(shown[0]) == 5
    assert len(pyplot.get_fignums()) == 4
    assert all(axes.has_data() for number in pyplot.get_fignums() for axes in pyplot.figure(number).axes)
    pyplot.close("all")
