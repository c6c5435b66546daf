"""The examples run as they stand."""

import runpy
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "ppo_from_python.py"


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
