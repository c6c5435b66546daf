"""`alignbench export`: the folder, its model card, and what is refused."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.comparison.numbers import number
from alignbench.export import hub
from alignbench.export.checkpoint import Exported
from alignbench.export.model_card import model_card
from alignbench.models.loading import load_classifier
from alignbench.pipeline.stored import recipe_of_run
from alignbench.recipe.yaml import read_yaml
from alignbench.results.reader import find_runs

GOLDEN = Path(__file__).parents[1] / "golden/results/v1_november"


def call(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments])


def names_no_folder(export, *places):
    for path in Path(export).rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            for place in (*places, Path.home()):
                assert f"{place}/" not in path.read_text(), path


def test_the_folder_and_its_card(recipe_folder, finished, checkpoints, prompt_file):
    finished("base", "ppo")
    said = call("export", "results/ppo", "deep/out")
    assert said.exit_code == 0, said.output
    assert "results/ppo: a model in deep/out, with README.md" in said.output
    names = {path.name for path in Path("deep/out").iterdir()}
    assert {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "README.md"} < names
    assert "recipe.resolved.yaml" in names
    assert "policy.json" not in names
    assert [path.name for path in Path("deep").iterdir()] == ["out"]
    card = Path("deep/out/README.md").read_text()
    for wanted in (
        "12 prompts, 4 completions",
        "do not cover the training seed",
        "not stated",
        "`nothate`",
        "name: ppo",
    ):
        assert wanted in card
    assert str(recipe_folder) not in card
    names_no_folder("deep/out", recipe_folder, checkpoints, prompt_file.parent)
    recipe = read_yaml(Path("deep/out/recipe.resolved.yaml").read_text(), "recipe.resolved.yaml")
    assert (recipe["policy"]["model"], recipe["data"]["prompts"]) == ("one_layer", "prompts.jsonl")
    assert card.startswith("---\nlibrary_name: transformers\n")


def test_the_card_has_every_metric_with_its_interval_beside_the_untrained_policys():
    [run], _ = find_runs(GOLDEN / "ppo_detox/seed0")
    card = model_card(run, recipe_of_run(run), Exported("language_model", ["."]))
    [base], _ = find_runs(GOLDEN / "base/seed0")
    rows = {tuple(row[:2]): row for row in map(cells, card.splitlines()) if len(row) == 7}
    stored, untrained = run.evaluations[0].metrics, base.evaluations[0].metrics
    assert {(key.metric, key.scorer or "") for key in stored} <= rows.keys()
    n_intervals = 0
    for key, metric in stored.items():
        value, interval, other = rows[key.metric, key.scorer or ""][3:6]
        assert number(metric.value) == value
        assert number(untrained[key].value) == other
        if metric.ci_low is not None:
            n_intervals += 1
            low, high = (float(end.replace(",", "")) for end in interval.split(" to "))
            assert (low, high) == pytest.approx((metric.ci_low, metric.ci_high), rel=1e-3, abs=5e-5)
    assert n_intervals > 10


def cells(line):
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_bad_input_is_one_clear_sentence(recipe_folder, finished, monkeypatch):
    finished("base")
    Path("full").mkdir()
    Path("full/a").touch()
    shutil.copytree("results/base/seed0", "results/base/seed1")
    shutil.copytree("results/base/seed0", "gone/seed0")
    shutil.rmtree("gone/seed0/artifact")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    for arguments, wanted in (
        (("results/base/seed0", "full"), "full: got a folder that is not empty, expected an empty one, or a new name"),
        (("results/base/seed0", "full/a"), "full/a: got a file"),
        (("results/base", "out"), "results/base: got 2 runs, expected one; name one of results/base/seed0"),
        (("results/nothing", "out"), "no complete run in results/nothing"),
        (("gone/seed0", "out"), "its trained model is gone"),
        (("results/base/seed0", "out", "--push", "me/it"), "--push: got no token of the hub"),
    ):
        said = call("export", *arguments)
        assert said.exit_code in (1, 2)
        assert wanted in said.output
        assert "Traceback" not in said.output
    assert not Path("out").exists()
    assert [path.name for path in Path("full").iterdir()] == ["a"]


def test_nothing_is_left_of_an_export_that_fails(recipe_folder, finished):
    finished("base")
    Path("results/base/seed0/artifact/model.safetensors").write_bytes(b"damaged")
    before = sorted(path.name for path in Path().iterdir())
    assert call("export", "results/base", "out").exit_code == 1
    assert sorted(path.name for path in Path().iterdir()) == before


def test_a_reward_model(recipe_folder, finished, checkpoints):
    finished("reward_model")
    assert call("export", "results/reward_model", "out").exit_code == 0
    names_no_folder("out", recipe_folder, checkpoints)
    model, _ = load_classifier("out", where="test")
    assert model.config.num_labels == 1
    card = Path("out/README.md").read_text()
    assert "AutoModelForSequenceClassification" in card
    assert "pair_accuracy" in card
    assert "more is better" in card


def test_a_push_uploads_the_folder_to_a_private_repository(tmp_path, monkeypatch):
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoUrl

    done = []
    monkeypatch.setattr(
        HfApi, "create_repo", lambda self, name, **how: done.append(how) or RepoUrl(f"https://huggingface.co/{name}")
    )
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **how: done.append(how))
    hub.push(tmp_path, "me/it")
    assert done == [{"private": True, "exist_ok": True}, {"folder_path": tmp_path, "repo_id": "me/it"}]
