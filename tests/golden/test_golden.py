"""Nothing that is recorded here moves without a word: `python tests/golden/record.py` records it anew."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
RECORDED = FOLDER / "recorded"
FILES = sorted(path for path in RECORDED.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def found():
    sys.path.insert(0, str(FOLDER))
    try:
        import record
    finally:
        sys.path.remove(str(FOLDER))
    return record.files()


def test_the_same_files(found):
    assert sorted(found) == sorted(path.relative_to(RECORDED).as_posix() for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(RECORDED)))
def test_as_recorded(found, path):
    expected, name = path.read_text(encoding="utf-8"), path.relative_to(RECORDED).as_posix()
    if name.endswith((".json", ".json.txt", ".csv.txt")):
        assert leaves(found[name]) == [
            pytest.approx(leaf, rel=1e-9, abs=1e-12, nan_ok=True) if isinstance(leaf, float) else leaf
            for leaf in leaves(expected)
        ]
    else:
        assert found[name] == expected


def leaves(text):
    """The values of JSON with their keys, or the cells of CSV: numbers may differ in their last digits."""
    body, _, code = text.partition("exit code")
    try:
        return [*_leaves(json.loads(body)), code]
    except ValueError:
        return [*map(_number, body.replace("\n", ",").split(",")), code]


def _leaves(value):
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list) else [value]


def _number(cell):
    try:
        return float(cell)
    except ValueError:
        return cell
