from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from alignbench.errors import DataError
from alignbench.records import Completion, Cost
from datasets_prep import cache
from datasets_prep.cache import Drawn, cached_draws

BUILT = Drawn(
    (Completion("p", 0, "gut\n", (3, 1, 0), "eos"), Completion("p", 2, "schlecht 😀 \u2028", (4,), "length")),
    (0.1 + 0.2, None),
    1,
    Cost(wall_seconds=2.5, training_completions=8, reward_calls=8),
)


class Builder:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.n_calls = 0

    def __call__(self) -> Drawn:
        self.n_calls += 1
        return BUILT


def only_entry(directory: Path) -> Path:
    (entry,) = directory.iterdir()
    return entry


def test_a_hit_gives_everything_back_and_builds_nothing(tmp_path: Path) -> None:
    build = Builder()
    assert cached_draws(tmp_path / "new", ["key"], build) == BUILT
    assert cached_draws(tmp_path / "new", ["key"], build) == BUILT
    assert build.n_calls == 1


def test_the_cost_of_a_hit_can_be_charged_without_changing_the_next(tmp_path: Path) -> None:
    cached_draws(tmp_path, "key", Builder())
    cached_draws(tmp_path, "key", Builder()).cost.charge(Cost(wall_seconds=100.0))
    assert cached_draws(tmp_path, "key", Builder()).cost == Cost(
        wall_seconds=2.5, training_completions=8, reward_calls=8
    )


def test_another_key_is_another_entry(tmp_path: Path) -> None:
    build = Builder()
    cached_draws(tmp_path, {"min_margin": 0.1}, build)
    cached_draws(tmp_path, {"min_margin": 0.2}, build)
    assert build.n_calls == 2


def test_other_code_is_another_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Builder()
    cached_draws(tmp_path, "key", build)
    monkeypatch.setattr(cache, "code_hash", lambda _: "changed")
    cached_draws(tmp_path, "key", build)
    assert build.n_calls == 2


def test_without_a_directory_nothing_is_kept(tmp_path: Path) -> None:
    build = Builder()
    cached_draws(None, "key", build)
    cached_draws(None, "key", build)
    assert build.n_calls == 2


def _truncate(entry: Path) -> None:
    rows = entry / "rows.jsonl"
    rows.write_bytes(rows.read_bytes()[:-20])


def _edit_statistics(entry: Path) -> None:
    stated = json.loads((entry / "entry.json").read_text())
    stated["facts"]["cost"]["training_completions"] = 0
    (entry / "entry.json").write_text(json.dumps(stated))


def _edit_rows(entry: Path) -> None:
    rows = entry / "rows.jsonl"
    rows.write_text(rows.read_text().replace('"gut', '"bad'))


def _make_file(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_text("")


DAMAGES: list[Callable[[Path], object]] = [
    _truncate,
    _edit_statistics,
    _edit_rows,
    _make_file,
    lambda entry: (entry / "rows.jsonl").unlink(),
    lambda entry: (entry / "entry.json").write_text("{"),
    lambda entry: (entry / "entry.json").write_text("[]"),
    lambda entry: (entry / "entry.json").write_bytes(b"\xff\x00"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_built_again(
    damage: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build = Builder()
    cached_draws(tmp_path, "key", build)
    damage(only_entry(tmp_path))
    assert cached_draws(tmp_path, "key", build) == BUILT
    assert build.n_calls == 2
    assert "damaged" in caplog.text
    assert cached_draws(tmp_path, "key", build) == BUILT
    assert build.n_calls == 2


def test_an_entry_under_another_name_is_not_believed(tmp_path: Path) -> None:
    cached_draws(tmp_path, "one", Builder())
    one = only_entry(tmp_path)
    cached_draws(tmp_path, "two", Builder())
    (two,) = set(tmp_path.iterdir()) - {one}
    shutil.rmtree(two)
    shutil.copytree(one, two)
    build = Builder()
    cached_draws(tmp_path, "two", build)
    assert build.n_calls == 1


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> Drawn:
        raise DataError("no pair")

    with pytest.raises(DataError):
        cached_draws(tmp_path / "new", "key", fail)
    assert not list(tmp_path.rglob("*.json*"))


def test_a_write_that_stops_half_way_leaves_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "checksum", interrupted)  # called between the two files of an entry
    with pytest.raises(KeyboardInterrupt):
        cached_draws(tmp_path, "key", Builder())
    assert not list(tmp_path.iterdir())


def test_pairs_are_returned_even_if_they_cannot_be_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    assert cached_draws(tmp_path / "file", "key", Builder()) == BUILT
    assert "is not kept" in caplog.text
