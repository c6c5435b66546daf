"""Rows of a hub data set, or of a local directory laid out like one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from alignbench.errors import DataError


def read_rows(dataset: str, split: str | None, revision: str | None, key: str, hint: str = "") -> list[dict[str, Any]]:
    """Returns the rows of one split.

    Args:
        dataset: Hub id, or a local directory.
        split: None means `train`.
        revision: None means the newest.
        key: The recipe key that names the data set, for messages.
        hint: What to add to the message if there is no such data set.

    Raises:
        DataError: There is no such data set or split, or the hub cannot be reached.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(dataset, split=split or "train", revision=revision)
    except (ConnectionError, FileNotFoundError) as error:
        raise DataError(
            f"{key}: cannot get {dataset!r}{_at(revision)}{_offline()}: {_first_line(error)}{hint or '.'} It is "
            "neither a file nor in the local cache of hub data sets. Give a local .jsonl, .jsonl.gz, .csv or .parquet "
            f"file as {key}, check the id, or download the data set once while online."
        ) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{key}: cannot use the hub data set {dataset!r}{_at(revision)}, split {split or 'train'!r}: "
            f"{_first_line(error)}."
        ) from error
    rows: list[dict[str, Any]] = loaded.to_list()
    if not rows:
        raise DataError(f"{key}: {dataset} holds no rows in split {split or 'train'!r}, expected at least one.")
    return rows


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
