from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from alignbench.errors import DataError, LeakError
from datasets_prep import hub
from datasets_prep.prepare import read_pools
from datasets_prep.settings import PromptSettings
from datasets_prep.sources import real_toxicity_prompts
from datasets_prep.sources.base import Request


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_an_unknown_id_while_offline_says_what_to_do() -> None:
    with pytest.raises(DataError) as caught:
        hub.read_rows("nobody/nothing-of-that-name", None, "v1", "data.prompts")
    message = str(caught.value)
    assert message.startswith("data.prompts: cannot get 'nobody/nothing-of-that-name' at revision 'v1' while offline")
    assert "Give a local .jsonl, .jsonl.gz, .json, .csv or .parquet file as data.prompts" in message
    assert "\n" not in message


def test_real_toxicity_prompts_while_offline() -> None:
    with pytest.raises(DataError, match=r"data.heldout: cannot get 'allenai/real-toxicity-prompts' while offline"):
        real_toxicity_prompts.read_rows(Request("data.heldout"))


def test_rows_and_splits_of_a_directory_laid_out_like_a_hub_data_set(tmp_path: Path) -> None:
    directory = tmp_path / "set"
    directory.mkdir()
    (directory / "train.jsonl").write_text('{"prompt": {"text": "a", "toxicity": 0.5}}\n')
    (directory / "test.jsonl").write_text('{"prompt": {"text": "b", "toxicity": 0.1}}\n')
    assert hub.read_rows(str(directory), None, None, "k") == [{"prompt": {"text": "a", "toxicity": 0.5}}]
    assert hub.read_rows(str(directory), "test", None, "k") == [{"prompt": {"text": "b", "toxicity": 0.1}}]
    with pytest.raises(DataError, match=r"split 'tset': Unknown split"):
        hub.read_rows(str(directory), "tset", None, "data.prompts")


def test_a_split_without_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: datasets.Dataset.from_list([]))
    with pytest.raises(DataError, match="holds no rows in split 'train'"):
        hub.read_rows("a/b", None, None, "data.prompts")


@pytest.fixture
def two_configurations(tmp_path: Path) -> str:
    """A data set with the configurations `harmless` and `red-team`, in a folder as the hub has them."""
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "a"}\n')
    (folder / "b.jsonl").write_text('{"text": "b"}\n')
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: harmless\n  data_files: a.jsonl\n"
        "- config_name: red-team\n  data_files: b.jsonl\n---\n"
    )
    return str(folder)


def test_a_configuration_is_chosen_by_name(two_configurations: str) -> None:
    assert hub.read_rows(two_configurations, None, None, "data.prompts", config="red-team") == [{"text": "b"}]
    settings = PromptSettings(prompts=two_configurations, config="harmless", heldout=two_configurations)
    kept = {"heldout_config": "red-team", "heldout_split": None}
    pool, heldout, _ = read_pools(settings.model_copy(update=kept))
    assert ([prompt.text for prompt in pool], [prompt.text for prompt in heldout]) == (["a"], ["b"])
    with pytest.raises(LeakError):  # the same configuration, where none is named for the same data set
        read_pools(settings.model_copy(update=kept | {"heldout_config": None}))


@pytest.mark.parametrize(("config", "got"), [(None, "nothing"), ("red_team", "'red_team'")])
@pytest.mark.parametrize(("key", "named"), [("data.prompts", "data.config"), ("data.heldout", "data.heldout_config")])
def test_a_missing_configuration_lists_those_that_there_are(
    two_configurations: str, config: str | None, got: str, key: str, named: str
) -> None:
    with pytest.raises(DataError) as caught:
        hub.read_rows(two_configurations, None, None, key, config=config)
    message = str(caught.value)
    assert message.startswith(f"{named}: got {got}, expected one of the configurations of {two_configurations!r}: ")
    assert "harmless, red-team" in message
    assert ("did you mean 'red-team'" in message) == (config is not None)


def test_the_configuration_goes_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*arguments: object, **options: object) -> datasets.Dataset:
        asked.append((arguments, options))
        return datasets.Dataset.from_list([{"text": "a"}])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    read_pools(PromptSettings(prompts="Anthropic/hh-rlhf", config="red-team", split="test", revision="v1"))
    assert asked == [(("Anthropic/hh-rlhf", "red-team"), {"split": "test", "revision": "v1"})]


@pytest.mark.parametrize("source", ["rows.jsonl", "real_toxicity_prompts", "wiki_toxic"])
def test_what_has_no_configurations_refuses_one(source: str) -> None:
    with pytest.raises(DataError, match=r"data\.config: got 'x', expected null: .* has no configurations"):
        read_pools(PromptSettings(prompts=source, config="x"))


def test_folders_of_save_to_disk(tmp_path: Path) -> None:
    rows = [{"prompt": {"text": f"text {i}", "toxicity": 0.5}} for i in range(5)]
    whole = datasets.Dataset.from_list(rows)
    whole.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=whole.select(range(3)), test=whole.select([3, 4])).save_to_disk(tmp_path / "several")
    assert hub.read_rows(str(tmp_path / "one"), "test", None, "data.prompts") == rows, "it is one split, by any name"
    several = str(tmp_path / "several")
    assert hub.read_rows(several, None, None, "data.prompts") == rows[:3]
    settings = PromptSettings(prompts=several, heldout=several)
    assert [len(pool) for pool in read_pools(settings)[:2]] == [3, 2]
    with pytest.raises(
        DataError, match=r"has no split 'tset', did you mean 'test'\? It has train, test; .*data\.split"
    ):
        hub.read_rows(several, "tset", None, "data.prompts")
    with pytest.raises(DataError, match=r"data\.heldout_config: got 'x', expected null"):
        hub.read_rows(several, None, None, "data.heldout", config="x")
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"one: cannot be read as a folder of save_to_disk"):
        hub.read_rows(str(tmp_path / "one"), None, None, "data.prompts")
