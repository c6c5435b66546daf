"""Rows of a hub data set, of a local directory laid out like one, or of a folder that `save_to_disk` wrote."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from alignbench.errors import DataError, did_you_mean

_SPLITS_FILE = "dataset_dict.json"
_DATASET_FILES = ("state.json", "dataset_info.json")
_CONFIGURATIONS = re.compile(r"(?:available configs|Available configs in the cache|Available): (\[.*?\])")
"""How `datasets` lists the configurations where the right one was not named."""
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


def read_rows(
    dataset: str, split: str | None, revision: str | None, key: str, hint: str = "", config: str | None = None
) -> list[dict[str, Any]]:
    """Returns the rows of one split.

    Args:
        dataset: Hub id, or a local directory.
        split: None means `train`. A single `Dataset` that `save_to_disk` wrote is one split and has no choice.
        revision: None means the newest.
        key: The recipe key that names the data set, for messages.
        hint: What to add to the message if there is no such data set.
        config: Name of one of several configurations; None where there is one.

    Raises:
        DataError: There is no such data set, configuration or split, or the hub cannot be reached.
    """
    import datasets

    datasets.disable_progress_bars()
    if is_saved(Path(dataset)):
        loaded = _load_saved(dataset, split or "train", key, config)
    else:
        loaded = _load(dataset, split or "train", revision, key, hint, config)
    rows: list[dict[str, Any]] = loaded.to_list()
    if not rows:
        raise DataError(f"{key}: {dataset} holds no rows in split {split or 'train'!r}, expected at least one.")
    return rows


def is_saved(folder: Path) -> bool:
    """True for a folder that `save_to_disk` of a `Dataset` or a `DatasetDict` wrote."""
    return (folder / _SPLITS_FILE).is_file() or all((folder / name).is_file() for name in _DATASET_FILES)


def _load_saved(folder: str, split: str, key: str, config: str | None) -> Any:
    import datasets

    check_no_config(config, key, "what save_to_disk wrote")
    try:
        loaded = datasets.load_from_disk(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:  # ArrowInvalid is a ValueError
        raise DataError(
            f"{key}: {folder}: cannot be read as a folder of save_to_disk ({_first_line(error)})."
        ) from error
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    if split not in loaded:
        hint = did_you_mean(split, list(loaded)) or "."
        known = ", ".join(loaded)
        raise DataError(
            f"{key}: {folder} has no split {split!r}{hint} It has {known}; name one with {_split_key(key)}."
        )
    return loaded[split]


def _load(dataset: str, split: str, revision: str | None, key: str, hint: str, config: str | None) -> Any:
    import datasets

    try:
        return datasets.load_dataset(dataset, config, split=split, revision=revision)
    except (ConnectionError, FileNotFoundError) as error:
        raise DataError(
            f"{key}: cannot get {dataset!r}{_at(revision)}{_offline()}: {_first_line(error)}{hint or '.'} It is "
            "neither a file nor in the local cache of hub data sets. Give a local .jsonl, .jsonl.gz, .json, .csv or "
            f".parquet file as {key}, check the id, or download the data set once while online."
        ) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        known = _CONFIGURATIONS.search(str(error))
        if known is not None:
            got = f"{config!r}" if config else "nothing"
            names = [first or second for first, second in _QUOTED.findall(known[1])]
            raise DataError(
                f"{_config_key(key)}: got {got}, expected one of the configurations of {dataset!r}: "
                f"{', '.join(names)}{did_you_mean(config or '', names)}"
            ) from error
        raise DataError(
            f"{key}: cannot use the hub data set {dataset!r}{_at(revision)}, split {split!r}: {_first_line(error)}."
        ) from error


def check_no_config(config: str | None, key: str, source: str) -> None:
    """DataError where a configuration is named of a source that has none."""
    if config is not None:
        raise DataError(f"{_config_key(key)}: got {config!r}, expected null: {source} has no configurations.")


def _config_key(key: str) -> str:
    """The key that names the configuration of the data set under another key."""
    return key.replace(".prompts", ".config").replace(".heldout", ".heldout_config")


def _split_key(key: str) -> str:
    return key.replace(".prompts", ".split").replace(".heldout", ".heldout_split")


def file_path(dataset: str, name: str, revision: str | None, key: str) -> Path:
    """Returns where one file of a hub data set lies on disk; it is downloaded if it is not in the local cache.

    Raises:
        DataError: It is not in the cache and the hub cannot be reached, or the hub has no such file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(dataset, name, repo_type="dataset", revision=revision))
    except (OSError, ValueError, EntryNotFoundError) as error:
        raise DataError(
            f"{key}: cannot get {name} of the hub data set {dataset!r}{_at(revision)}{_offline()}: "
            f"{_first_line(error)}. It is not in the local cache either. Give the path of a local copy of the data set "
            f"as {key}, or download it once while online."
        ) from error


def _at(revision: str | None) -> str:
    return "" if revision is None else f" at revision {revision!r}"


def _offline() -> str:
    switched_off = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    return " while offline (HF_HUB_OFFLINE is set)" if switched_off else ""


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
