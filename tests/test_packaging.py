"""The package as it is installed: recipes and world found from a wheel in an empty folder, dependencies that agree."""

import configparser
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from alignbench.code_hash import code_hash

ROOT = Path(__file__).parents[1]


def test_wheel_holds_recipes_and_types(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {path.relative_to(ROOT / "recipes").as_posix() for path in (ROOT / "recipes").rglob("*.yaml")}
    assert {name.removeprefix("alignbench_recipes/") for name in names if name.endswith(".yaml")} == shipped
    assert "alignbench/py.typed" in names
    templates = {path.name for path in (ROOT / "alignbench" / "report" / "templates").iterdir()}
    assert {name.rpartition("/")[2] for name in names if name.startswith("alignbench/report/templates/")} == templates
    assert not [name for name in names if name.startswith("tests/")]
    checks = {f"alignbench_conformance/{path.name}" for path in (ROOT / "tests" / "conformance").glob("*.py")}
    assert {name for name in names if name.startswith("alignbench_conformance/")} == checks != set()
    world = [path for path in (ROOT / "alignbench" / "embedded" / "shipped").rglob("*") if path.is_file()]
    assert {path.relative_to(ROOT).as_posix() for path in world} == {name for name in names if "/shipped/" in name}


def test_recipes_world_and_code_are_found_from_a_wheel_in_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import alignbench; from alignbench.cli import main; "
        "assert alignbench.__file__.startswith(sys.argv[1]); from alignbench.code_hash import code_hash; "
        "from alignbench.embedded.world import PARTS, resolve; "
        "assert all(str(resolve(part)).startswith(sys.argv[1]) for part in PARTS); "
        "print(code_hash('datasets_prep.prepare')); main(['run', 'quickstart', '--dry-run'])"
    )
    # -S and -P would hide the libraries too; the wheel comes first on the path instead, before any editable install.
    done = subprocess.run(
        [sys.executable, "-c", code, str(site)], capture_output=True, text=True, cwd=empty, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "ppo_detox, seed 0: ppo, start" in done.stdout
    assert done.stdout.startswith(code_hash("datasets_prep.prepare"))
    assert list(empty.iterdir()) == []


def test_constraints_pin_every_dependency():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    pinned = dict(
        re.match(r"([A-Za-z0-9_.-]+)==(\S+)", line).groups()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    known = {name.lower().replace("_", "-") for name in pinned}
    wanted = config["options"]["install_requires"] + config["options.extras_require"]["dev"]
    for line in wanted.split("\n"):
        name = re.split(r"[ <>=!;]", line.strip())[0].lower().replace("_", "-")
        assert not name or name in known, f"{name} has no version in constraints.txt"
    assert pinned["torch"] == "2.13.0"
    assert pinned["trl"] == "1.16.0"
