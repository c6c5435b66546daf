from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from alignbench.errors import DataError
from alignbench.records import Prompt
from datasets_prep.prepare import prepare_prompts, source_settings
from datasets_prep.prompt_lengths import TextTokenizer
from datasets_prep.sources import wiki_toxic

TEST_ROWS = [
    ("z1", "You, sir,\nare a\tfool", 1),
    ("m2", "Thank you for the source", 0),
    ("a3", "you, sir, are a fool", 1),  # the first again, but for case and white space
    ("k4", "x" * 1999 + " y and what is cut", 1),
    ("b5", "Go away", 1),
    ("c6", "   ", 1),
]
TRAIN_ROWS = [("t1", "A kind comment of training", 0), ("t2", "A rude comment of training", 1)]


def write(
    path: Path, rows: Sequence[tuple[str, str, int]], names: Sequence[str] = ("id", "comment_text", "label")
) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([names, *rows])


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "wiki"
    folder.mkdir()
    write(folder / "test.csv", TEST_ROWS)
    write(folder / "train.csv", TRAIN_ROWS)
    write(folder / "balanced_train.csv", [("t9", "Never read", 1)])  # the data set has such a file too
    return folder


@pytest.fixture
def hub_files(copy: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The hub as far as it is asked; what was asked."""
    asked: list[tuple[Any, ...]] = []

    def file_path(*arguments: Any) -> Path:
        asked.append(arguments)
        return copy / arguments[1]

    monkeypatch.setattr("datasets_prep.hub.file_path", file_path)
    return asked


def heldout(source: str, tokenizer: TextTokenizer, **changes: Any) -> tuple[Prompt, ...]:
    whole = {"validation_fraction": 0.0, "heldout_fraction": 1.0, **changes}
    settings = source_settings(source).model_copy(update=whole)
    return prepare_prompts(settings, tokenizer, context_tokens=100, cache_directory=None).heldout


def test_toxic_comments_of_the_test_split_cut_and_in_the_order_of_the_file(
    words: TextTokenizer, hub_files: list[tuple[Any, ...]]
) -> None:
    prompts = heldout("wiki_toxic", words)
    assert prompts == (
        Prompt("z1", "You, sir,\nare a\tfool", 1.0),
        Prompt("k4", "x" * 1999 + " ", 1.0),
        Prompt("b5", "Go away", 1.0),
    )
    assert hub_files == [("OxAISH-AL-LLM/wiki_toxic", "test.csv", None, "data.prompts")]
    assert heldout("OxAISH-AL-LLM/wiki_toxic", words) == prompts
    assert heldout("wiki_toxic", words, split_seed=7) == prompts
    assert heldout("wiki_toxic", words, max_prompts=2) == prompts[:2]


def test_a_local_copy_gives_the_same_prompts(
    copy: Path, words: TextTokenizer, hub_files: list[tuple[Any, ...]]
) -> None:
    expected = heldout("wiki_toxic", words)
    hub_files.clear()
    assert heldout(str(copy), words) == heldout(str(copy / "test.csv"), words) == expected
    shutil.copy(copy / "test.csv", copy / "renamed.csv")
    assert heldout(str(copy / "renamed.csv"), words) == expected
    assert hub_files == []


def test_as_training_data_it_is_the_train_split_with_both_labels(
    words: TextTokenizer, hub_files: list[tuple[Any, ...]], copy: Path
) -> None:
    everything = heldout("wiki_toxic", words, split="train", min_prompt_toxicity=None)
    assert everything == (Prompt("t1", TRAIN_ROWS[0][1], 0.0), Prompt("t2", TRAIN_ROWS[1][1], 1.0))
    assert heldout(str(copy), words, split="train", min_prompt_toxicity=None) == everything
    assert hub_files[0][1] == "train.csv"


def test_other_sources_by_name_are_taken_whole(tmp_path: Path) -> None:
    write(tmp_path / "other.csv", [("1", "a", 1)], ("id", "text", "label"))
    for source in ("real_toxicity_prompts", "some/set", str(tmp_path / "other.csv"), str(tmp_path / "none.csv")):
        settings = source_settings(source)
        assert (settings.prompts, settings.split, settings.min_prompt_toxicity) == (source, "train", None)


def test_offline_and_not_in_the_cache(words: TextTokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(DataError) as caught:
        heldout("wiki_toxic", words)
    message = str(caught.value)
    assert message.startswith(
        "data.prompts: cannot get test.csv of the hub data set 'OxAISH-AL-LLM/wiki_toxic' while offline"
    )
    assert "Give the path of a local copy of the data set as data.prompts" in message
    assert "\n" not in message


def test_a_split_or_a_column_that_is_not_there(copy: Path, words: TextTokenizer) -> None:
    with pytest.raises(DataError, match=r"has no split 'tset', expected one of train, validation, test"):
        heldout(str(copy), words, split="tset")
    with pytest.raises(DataError, match=r"validation.csv: there is no such file"):
        heldout(str(copy), words, split="validation")
    write(copy / "train.csv", [("1", "a", 1)], ("id", "comment", "label"))
    with pytest.raises(
        DataError, match=r"train.csv of wiki_toxic has the columns id, comment, label, expected id, comm"
    ):
        heldout(str(copy), words, split="train")


def test_a_label_that_is_neither_0_nor_1(copy: Path, words: TextTokenizer) -> None:
    write(copy / "test.csv", [("1", "a", 1), ("2", "b", -1)])
    with pytest.raises(DataError, match=r"row 2: column 'toxicity' holds '-1', expected a toxicity from 0 to 1"):
        heldout(str(copy), words)


def test_a_file_of_ones_own_with_usual_columns_is_read_by_these() -> None:
    own = {"id": 1, "comment_text": "a", "label": 1}
    assert wiki_toxic.with_usual_columns([own]) == [{**own, "prompt": "a", "toxicity": 1}]
    assert wiki_toxic.with_usual_columns([{"comment_text": "a", "label": 1, "prompt": "b"}]) is None
    assert wiki_toxic.with_usual_columns([{"comment_text": "a"}]) is None
    assert wiki_toxic.with_usual_columns([]) is None
