"""The reference of all keys, and the page that is made of it."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.errors import UsageError
from alignbench.recipe.keys import render_keys
from alignbench.recipe.loading import load

_PAGE = Path(__file__).parents[2] / "docs" / "recipe_keys.md"


def test_the_page_is_made_of_the_fields():
    begin = "## recipe\n"
    head, _, tail = _PAGE.read_text(encoding="utf-8").partition(begin)
    # To make it anew: keep what is before "## recipe", and put the output of `alignbench keys` after it.
    assert begin + tail == render_keys() + "\n"
    assert head


def test_every_key_has_a_type_and_a_meaning():
    rows = [line for line in render_keys().splitlines() if line.startswith("- ")]
    assert len(rows) > 200
    assert [
        row for row in rows if not re.fullmatch(r"- `[\w.]+`: [^;]+?(; required|; default `.*?`)?\. \S.*", row)
    ] == []


@pytest.mark.parametrize(
    ("row", "block"),
    [
        ("- `policy.lora.r`: int >= 1; default `16`. Rank.", "policy"),
        ("- `budget.completions`: int >= 1; default `8192`. ", "budget"),
        ("- `data.prompts`: str; required. ", "data"),
        ("- `evaluation.n_prompts`: int >= 1 | null; default `null`. ", "evaluation"),
        ("- `evaluation.scorers.lexicon`: ", "evaluation.scorers"),
        ("- `method.kl_coef`: float >= 0; default ", "method.ppo"),
        ("- `sweep.trials`: int >= 2; required. ", "sweep"),
    ],
)
def test_what_a_row_says(row, block):
    assert any(line.startswith(row) for line in render_keys(block).splitlines())


def test_a_block_that_there_is_not():
    with pytest.raises(UsageError, match=r"keys: got 'evalution', expected one of recipe, .*did you mean 'evaluation'"):
        render_keys("evalution")
    result = CliRunner().invoke(main, ["keys", "polcy"])
    assert result.exit_code == 2
    assert "did you mean 'policy'" in result.output


def test_the_suite_of_the_page_is_one_that_check_accepts(tmp_path, monkeypatch):
    page = _PAGE.read_text(encoding="utf-8")
    files = dict(re.findall(r"```yaml\n# (\S+): .*?\n(.*?)```", page, re.DOTALL))
    assert sorted(files) == ["mine.yaml", "suite.yaml"]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    prompts = "".join(f'"Say something about number {n}, please"\n' for n in range(600))
    (tmp_path / "prompts.csv").write_text(f"prompt\n{prompts}")
    monkeypatch.chdir(tmp_path)
    loaded = load(["suite.yaml"])
    assert [(one.name, one.recipe.seed) for one in loaded][::2] == [
        ("base", 0), ("dpo_classifier_pairs", 0), ("rloo", 0), ("ppo_detox", 0),
    ]  # fmt: skip
    assert {one.recipe.policy.model for one in loaded} == {"Qwen/Qwen3-1.7B"}
    result = CliRunner().invoke(main, ["check", "suite.yaml"])
    assert result.exit_code == 0, result.output
