from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from alignbench.errors import DataError
from datasets_prep import hub, real_toxicity_prompts


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
    assert "Give a local .jsonl, .jsonl.gz, .csv or .parquet file as data.prompts" in message
    assert "\n" not in message


def test_real_toxicity_prompts_while_offline() -> None:
    with pytest.raises(DataError, match=r"data.heldout: cannot get 'allenai/real-toxicity-prompts' while offline"):
        real_toxicity_prompts.read_rows(None, "data.heldout")


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
