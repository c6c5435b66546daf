"""The world's directory: complete or absent, whatever happens while it is built; training is stood in for."""

import json
import subprocess
import sys
import threading

import pytest
import torch

from alignbench.embedded import world
from alignbench.errors import ModelError
from alignbench.records import file_sha256


def write_world(directory, content):
    (directory / "policy").mkdir()
    (directory / "policy" / "weights").write_text(content)
    hashes = {"policy/weights": file_sha256(directory / "policy" / "weights")}
    (directory / "world.json").write_text(json.dumps({"files": hashes}))


@pytest.fixture
def made(monkeypatch):
    """Replaces the training; counts how often it was asked for and writes that count."""
    calls = []

    def make(directory, progress):
        calls.append(directory)
        write_world(directory, f"build {len(calls)}")

    monkeypatch.setattr(world, "_make", make)
    return calls


def content(directory):
    return (directory / "policy" / "weights").read_text()


def lock_of(directory):
    return directory.with_name(f".{directory.name}.lock")


def test_built_once(made, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path / "cache"))
    directory = world.ensure()
    assert directory == world.world_directory() == tmp_path / "cache" / f"embedded-{world.version()}"
    assert world.resolve("embedded/policy") == directory / "policy"
    assert len(made) == 1
    assert sorted(directory.parent.iterdir()) == [lock_of(directory), directory]


@pytest.mark.parametrize("damage", ["file changed", "file gone", "no description", "description cut short"])
def test_a_damaged_world_is_replaced(made, tmp_path, monkeypatch, damage):
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path))
    directory = world.ensure()
    if damage == "file changed":
        (directory / "policy" / "weights").write_text("build X")
    elif damage == "file gone":
        (directory / "policy" / "weights").unlink()
    elif damage == "no description":
        (directory / "world.json").unlink()
    else:
        (directory / "world.json").write_text('{"files": {"pol')
    assert not world.is_intact(directory)
    assert content(world.ensure()) == "build 2"
    assert sorted(tmp_path.iterdir()) == [lock_of(directory), directory]


def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    def make(directory, progress):
        write_world(directory, "half")
        raise KeyboardInterrupt

    monkeypatch.setattr(world, "_make", make)
    with pytest.raises(KeyboardInterrupt):
        world.build(tmp_path / "world")
    assert list(tmp_path.iterdir()) == []


def test_two_builds_at_once(tmp_path, monkeypatch):
    """Both finish their work at the same moment; the world is one of theirs, whole, and nothing else is left."""
    meet = threading.Barrier(2, timeout=20)
    errors = []

    def make(directory, progress):
        write_world(directory, threading.current_thread().name)
        meet.wait()

    def build():
        try:
            world.build(tmp_path / "world")
        except BaseException as error:
            errors.append(error)

    monkeypatch.setattr(world, "_make", make)
    threads = [threading.Thread(target=build, name=f"builder {i}") for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert world.is_intact(tmp_path / "world")
    assert content(tmp_path / "world").startswith("builder ")
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


ASKS = """
import logging, sys
from alignbench.embedded import world
from alignbench.records import file_sha256
def make(directory, progress):
    print("builds", flush=True)
    sys.stdin.readline()
    (directory / "weights").write_text("w")
    (directory / "world.json").write_text('{"files": {"weights": "%s"}}' % file_sha256(directory / "weights"))
world._make = make
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
print(world.ensure().name, flush=True)
"""


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", ASKS], **pipes) as builds:
        assert builds.stdout.readline() == "builds\n"
        with subprocess.Popen([sys.executable, "-c", ASKS], **pipes) as waits:
            assert "waiting for it" in waits.stdout.readline()
            builds.stdin.write("done\n")
            builds.stdin.flush()
            assert builds.stdout.read() == waits.stdout.read() == f"{world.world_directory().name}\n"
    assert builds.returncode == waits.returncode == 0


def test_a_builder_that_was_killed_holds_nobody_up(made, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", ASKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as builds:
        assert builds.stdout.readline() == b"builds\n"
        builds.kill()
    assert content(world.ensure()) == "build 1"


def test_the_slower_build_keeps_the_world_that_is_there(tmp_path, monkeypatch):
    directory = tmp_path / "world"

    def make(mine, progress):
        write_world(mine, "slower")
        directory.mkdir()
        write_world(directory, "faster")

    monkeypatch.setattr(world, "_make", make)
    world.build(directory)
    assert content(directory) == "faster"


def test_a_cache_that_cannot_be_written(made, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set ALIGNBENCH_CACHE to a directory that can be written"):
        world.ensure()


def test_the_version_follows_the_libraries(monkeypatch):
    before = world.version()
    assert world.version() == before
    monkeypatch.setattr(world, "installed_version", lambda name: "0.0")
    assert world.version() != before


def test_a_build_leaves_no_traces_in_the_process():
    from transformers.utils import logging

    torch.manual_seed(0)
    expected, n_threads, had_bars = torch.rand(3), torch.get_num_threads(), logging.is_progress_bar_enabled()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    try:
        with world._quiet_and_reproducible():
            torch.manual_seed(99)
            torch.rand(7)
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(n_threads)
    assert torch.equal(torch.rand(3), expected)
    assert logging.is_progress_bar_enabled() == had_bars


def test_naming_a_part_needs_no_torch():
    code = "import sys, alignbench.embedded.world; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_second_build_gives_the_same_files(world_files, tmp_path):
    world.build(tmp_path / "again", progress=False)
    assert json.loads((tmp_path / "again" / "world.json").read_text())["files"] == world_files


@pytest.fixture
def world_files(request):
    directory = request.getfixturevalue("world")
    return json.loads((directory / "world.json").read_text())["files"]
