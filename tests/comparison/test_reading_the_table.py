"""docs/reading_the_table.md: its commands run, and what it shows is what they print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures.every_flag import make

from alignbench.cli import main
from alignbench.comparison.columns import LETTERS
from alignbench.comparison.compare import compare
from alignbench.comparison.document import SECTION_NAMES
from alignbench.comparison.page import View, page

PAGE = (Path(__file__).parents[2] / "docs" / "reading_the_table.md").read_text(encoding="utf-8")
COMMANDS = [
    (command, shown.strip("\n"))
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for command, shown in re.findall(r"^\$ alignbench (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("shown")
    (made / "results").mkdir()
    make(made / "results")
    return made


@pytest.mark.parametrize(("command", "shown"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_commands(folder, monkeypatch, command, shown):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 0, result.output
    if shown:
        assert result.output.rstrip("\n") == shown


def test_the_example_has_every_flag_but_those_of_mismatches_in_forty_lines(folder):
    comparison = compare(folder / "results")
    names = {flag.name for row in comparison.recipes for flag in row.flags}
    assert set(LETTERS) - names == {"mismatch"}
    for width in (80, 100, 200):
        lines = page(comparison, View(width))
        assert len(lines) <= 40
        assert max(map(len, lines)) <= width


def test_every_flag_and_every_line_is_explained(folder):
    for name, letter in LETTERS.items():
        assert re.search(rf"^\| {re.escape(letter)} \| `{name}` \|", PAGE, re.MULTILINE)
    lines = page(compare(folder / "results"), View(100))
    for heading in {found[0] for line in lines if (found := re.match(r"[A-Z]{2,}( [A-Z]{2,})?(?=  )", line))}:
        assert f"**{heading}" in PAGE or heading in ("ANSWER", "MORE")


def test_results_lists_the_sections():
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    assert ", ".join(f"`{name}`" for name in SECTION_NAMES) in text
