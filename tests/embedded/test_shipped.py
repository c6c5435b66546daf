"""The world in the package: found by name wherever the package stands, and never used where it is damaged."""

import gzip
import json
import re
import shutil
import subprocess
import sys
from random import Random

import pytest

from alignbench.embedded import __main__ as record
from alignbench.embedded import grammar, world
from alignbench.embedded.world import N_PROMPTS, PARTS, SHIPPED, resolve
from alignbench.errors import ModelError
from alignbench.models.loading import load_classifier, load_language_model, weights_fingerprint
from alignbench.records import file_sha256


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A copy of the shipped world, at the place where the package looks for it."""
    copy = tmp_path / "site-packages" / "shipped"
    shutil.copytree(SHIPPED, copy)
    monkeypatch.setattr(world, "SHIPPED", copy)
    return copy


def test_names():
    assert {name: resolve(name) for name in PARTS} == {
        "embedded/policy": SHIPPED / "policy",
        "embedded/classifier": SHIPPED / "classifier",
        "embedded/judge": SHIPPED / "judge",
        "embedded/prompts": SHIPPED / "prompts.jsonl.gz",
        "embedded/neutral": SHIPPED / "neutral.jsonl",
    }


def test_unknown_name():
    with pytest.raises(ModelError) as caught:
        resolve("embedded/polcy")
    message = str(caught.value)
    assert message.startswith("embedded/polcy: ")
    assert all(name in message for name in PARTS)
    assert message.endswith("did you mean 'embedded/policy'?")


def test_every_file_has_its_hash_and_nothing_else_lies_there():
    hashes = json.loads((SHIPPED / "world.json").read_text())["files"]
    files = [path for path in SHIPPED.rglob("*") if path.is_file() and path.name != "world.json"]
    assert {path.relative_to(SHIPPED).as_posix(): file_sha256(path) for path in files} == hashes
    assert sum(path.stat().st_size for path in files) < 2 * 2**20  # it is shipped in every wheel and clone


@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_part_is_refused_and_the_others_serve(elsewhere, part):
    """One bit of its largest file."""
    path = elsewhere / PARTS[part]
    file = max(path.iterdir(), key=lambda one: one.stat().st_size) if path.is_dir() else path
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match=re.escape(f"{part}: {file} is not the file that was shipped; install")):
        resolve(part)
    for other in PARTS.keys() - {part}:
        assert resolve(other) == elsewhere / PARTS[other]


def test_missing_files(elsewhere):
    (elsewhere / "policy" / "tokenizer.json").unlink()
    missing = re.escape(f"embedded/policy: {elsewhere / 'policy' / 'tokenizer.json'} cannot be read (No such file")
    with pytest.raises(ModelError, match=missing):
        resolve("embedded/policy")


@pytest.mark.parametrize("text", ["", "[]", '{"files": {"pol', '{"files": null}', '{"files": ["policy"]}'])
def test_a_damaged_description(elsewhere, text):
    (elsewhere / "world.json").write_text(text)
    with pytest.raises(ModelError, match=r"embedded/judge: .*world.json is missing or damaged; install"):
        resolve("embedded/judge")


def test_a_description_without_the_part(elsewhere):
    (elsewhere / "world.json").write_text('{"files": {}}')
    with pytest.raises(ModelError, match=r"embedded/judge: .*world.json names no file of it; install"):
        resolve("embedded/judge")


def test_a_package_in_a_zip_file(monkeypatch, tmp_path):
    monkeypatch.setattr(world, "SHIPPED", tmp_path / "alignbench.zip" / "alignbench" / "embedded" / "shipped")
    (tmp_path / "alignbench.zip").write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"world.json is missing or damaged; install alignbench anew, unpacked"):
        resolve("embedded/policy")


def test_fingerprints_do_not_depend_on_the_place(elsewhere, monkeypatch):
    """What runs record, keys of the cache and saved policies are the same wherever the package is installed."""

    def seen():
        policy = load_language_model(str(resolve("embedded/policy")), shown_as="embedded/policy")
        judge, _ = load_classifier(str(resolve("embedded/judge")), where="here")
        return weights_fingerprint(policy.model), weights_fingerprint(judge), policy.name

    there = seen()
    monkeypatch.setattr(world, "SHIPPED", SHIPPED)
    assert seen() == there
    assert there[-1] == "embedded/policy"


def test_no_file_names_a_place():
    """Neither where the package stands nor where the world was built."""
    for path in SHIPPED.rglob("*.json"):
        assert not re.search(r'"[^"]*(/tmp|/home|/root|/usr|site-packages)[^"]*"', path.read_text()), path


def test_prompts_and_neutral_texts_are_those_of_the_grammar():
    """A changed grammar has to be recorded."""
    prompts = grammar.make_prompts(2 * N_PROMPTS + world.N_SPARE_PROMPTS, Random(world.SEEDS["prompts"]))
    written, spare = prompts[N_PROMPTS : 2 * N_PROMPTS], prompts[2 * N_PROMPTS :]
    assert gzip.decompress((SHIPPED / "prompts.jsonl.gz").read_bytes()).decode() == world.prompt_rows(written)
    assert (SHIPPED / "neutral.jsonl").read_text() == world.neutral_rows(spare)


def test_recording_replaces_the_world_once_the_new_one_is_complete(elsewhere, monkeypatch, capsys):
    def build(directory):
        assert (elsewhere / "world.json").is_file()  # the old one, until then
        (directory / "judge").mkdir()
        (directory / "judge" / "weights").write_text("new")
        hashes = {"judge/weights": file_sha256(directory / "judge" / "weights")}
        (directory / "world.json").write_text(json.dumps({"files": hashes}))
        return {"base_toxicity": 0.4}

    monkeypatch.setattr(record, "SHIPPED", elsewhere)
    monkeypatch.setattr(record, "build", build)
    record.main()
    assert (resolve("embedded/judge") / "weights").read_text() == "new"
    assert sorted(path.name for path in elsewhere.iterdir()) == ["judge", "world.json"]
    assert capsys.readouterr().out == f"{elsewhere}: base_toxicity 0.4\n"


def test_an_interrupted_recording_keeps_the_world(elsewhere, monkeypatch):
    def build(directory):
        (directory / "world.json").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "SHIPPED", elsewhere)
    monkeypatch.setattr(record, "build", build)
    with pytest.raises(KeyboardInterrupt):
        record.main()
    assert all(resolve(part).exists() for part in PARTS)


def test_naming_a_part_needs_no_torch():
    code = (
        "import sys; from alignbench.embedded.world import resolve; resolve('embedded/policy'); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
