"""Where a report goes, and every way in which it cannot."""

import os
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.errors import AlignbenchError
from alignbench.report.blocks import Section
from alignbench.report.files import Target

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        result = CliRunner().invoke(main, ["report", *map(str, arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


def refused(result, *said, code=2):
    assert result.exit_code == code
    assert result.output.startswith("Error: ")
    for one in said:
        assert one in result.output
    return result.output


def test_a_page(call, results):
    assert call(results).output == "wrote report.html\n"
    text = Path("report.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert os.listdir(".") == ["report.html"]
    assert str(results) not in text  # nothing inside names a path of the machine


def test_markdown_with_pictures(call, results):
    result = call(results, "-o", "out.md", "--figures", "pictures")
    assert result.exit_code == 0
    names = sorted(os.listdir("pictures"))
    assert len(names) == 9
    assert all(name.endswith(".svg") for name in names)
    text = Path("out.md").read_text(encoding="utf-8")
    assert all(f"(<pictures/{name}>)" in text for name in names)


def test_pictures_as_png(tmp_path, made):
    pytest.importorskip("resvg_py", reason="needs resvg: pip install 'alignbench[png]'")
    one = replace(made, sections=[Section("pictures", "Pictures", made.figures[:1])])
    target = Target(tmp_path / "report.md", tmp_path / "pictures", "png")
    target.require()
    picture, report = target.write(one)
    content = picture.read_bytes()
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    assert (content[:8], width, height) == (PNG, 2 * 960, 2 * round(one.figures[0].picture.height))
    assert f"(<pictures/{picture.name}>)" in report.read_text(encoding="utf-8")


def test_png_without_resvg_is_refused_before_anything_is_read(call, monkeypatch):
    monkeypatch.setattr("alignbench.report.png.find_spec", lambda name: None)
    refused(call("nothing_there", "--figures", "p", "--figure-format", "png"), "pip install 'alignbench[png]'")


def test_png_without_a_font_would_have_no_letters_and_is_refused(call, monkeypatch):
    resvg_py = pytest.importorskip("resvg_py", reason="needs resvg: pip install 'alignbench[png]'")
    drawn = resvg_py.svg_to_bytes
    monkeypatch.setattr(resvg_py, "svg_to_bytes", lambda **options: drawn(**options, skip_system_fonts=True))
    refused(call("nothing_there", "--figures", "p", "--figure-format", "png"), "PNG needs a font")


def test_what_is_there_stays_unless_it_may_be_replaced(call, results):
    Path("report.html").write_text("mine")
    refused(call(results), "report.html is there already", "--force")
    assert Path("report.html").read_text() == "mine"
    assert call(results, "--force").exit_code == 0
    assert Path("report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_picture_that_is_there_stays_and_no_report_is_written_either(call, results):
    Path("p").mkdir()
    Path("p/costs.svg").write_text("mine")
    refused(call(results, "--figures", "p"), "costs.svg is there already")
    assert sorted(map(str, Path().rglob("*"))) == ["p", "p/costs.svg"]
    assert call(results, "--figures", "p", "--force").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "report.pdf"], "expected a name that ends in .html or .md"),
        (["-o", "no/such/report.html"], "there is no folder no/such"),
        (["-o", "."], "expected a name that ends in .html or .md"),
        (["-o", "folder.html"], "folder.html is a folder"),
        (["--figures", "file"], "file is a file, expected a folder"),
        (["--figures", "no/such"], "there is no folder no"),
        (["--published", "trl-detox"], "did you mean 'trl-detox-v1'?"),
    ],
)
def test_where_nothing_can_go(call, arguments, said):
    Path("folder.html").mkdir()
    Path("file").write_text("")
    refused(call("results_that_are_not_read", *arguments), said)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(call, results):
    Path("closed").mkdir(mode=0o500)
    refused(call(results, "-o", "closed/report.html"), "no permission to write in closed")


def test_what_the_documentation_shows_runs(call, results):
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    Path("results").symlink_to(results)
    [commands], [example] = (re.findall(f"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("bash", "python"))
    for line in commands.splitlines():
        words = line.partition("#")[0].split()
        assert words[:2] == ["alignbench", "report"]
        if "png" not in words or find_spec("resvg_py"):
            assert call(*words[2:], "--force").exit_code == 0
    exec(compile(example, "docs/report.md", "exec"), {})


def test_a_full_disk_leaves_nothing_half_written(tmp_path, made, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    (tmp_path / "report.html").write_text("as before")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(AlignbenchError, match=r"report\.html cannot be written: No space left on device"):
        Target(tmp_path / "report.html", force=True).write(made)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "as before"


def test_results_of_which_nothing_can_be_shown(call, results, add_run):
    Path("empty").mkdir()
    refused(call("empty"), "no complete run in empty", code=1)
    refused(call("not_there"), "not_there: missing, no such directory", code=1)
    alone = refused(call(results / "untrained/seed0"), "nothing was compared: got untrained alone", code=3)
    assert alone.count("\n") == 1
    add_run(Path("mixed"), "untrained", {"kl": [0.1] * 12}, comparability={"decoding": "x"})
    add_run(Path("mixed"), "ppo", {"kl": [0.1] * 12}, comparability={"decoding": "y"})
    refused(call("mixed"), "do not belong in one table", "x in untrained/seed0", code=1)
    assert call("mixed", "--allow-mismatch").exit_code == 0
    assert "NOT COMPARABLE" in Path("report.html").read_text(encoding="utf-8")
    (Path("mixed") / "ppo/seed0/status.json").write_text("{")
    refused(call("mixed", "--force"), "got untrained alone", "1 skipped", code=3)


def test_no_name_of_a_picture_is_a_path(call, add_run):
    name = "toxicity_mean@../../up"
    for recipe in ("untrained", "ppo"):
        add_run(Path("r"), recipe, {name: [0.1 * i for i in range(10)]})
    assert call("r", "--figures", "p").exit_code == 0
    assert "forest-.._.._up.svg" in os.listdir("p")
