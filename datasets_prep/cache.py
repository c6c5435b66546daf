"""Prepared prompts, drawn completions and whatever else is made once, on disk.

An entry is a directory `<kind>-<key>` with `rows.jsonl` and `entry.json`; the key is a fingerprint of whatever decides
the content, the code that makes it among it (`alignbench.code_hash`). An entry is written beside its place and renamed,
and it is believed only if it has the hash that it states; otherwise it is built again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from alignbench.code_hash import code_hash
from alignbench.records import Completion, Cost, Prompt, fingerprint
from datasets_prep.prepared import PreparedData

logger = logging.getLogger(__name__)
_ROWS, _ENTRY = "rows.jsonl", "entry.json"
T = TypeVar("T")
Rows = Sequence[Mapping[str, Any]]
Facts = Mapping[str, Any]
_SPLITS = ("train", "validation", "heldout")


@dataclass(frozen=True, slots=True)
class Drawn:
    """Completions that a policy has drawn for training, each with its reward."""

    completions: tuple[Completion, ...]
    rewards: tuple[float | None, ...]
    """The reward of each, higher is better; None where it could not be scored."""
    n_cut: int
    """Completions that were scored after a prompt that lost its beginning, to fit."""
    cost: Cost
    """What drawing and scoring has cost; whoever trains on what is made of them is charged, cached or not."""


def cached_prompts(directory: Path, key: str, build: Callable[[], PreparedData]) -> PreparedData:
    """Returns the prompts stored under a key, or builds and stores them.

    Args:
        directory: Where entries are kept; made if missing.
        key: The fingerprint of the prepared data.
        build: Called on a miss; its result must carry the key as its fingerprint.
    """
    entry = directory / f"prompts-{key}"

    def parse(rows: Rows, facts: Facts) -> PreparedData:
        splits = {name: tuple(Prompt(**row["prompt"]) for row in rows if row["split"] == name) for name in _SPLITS}
        return PreparedData(**splits, fingerprint=key, statistics=facts["statistics"])

    stored = read_entry(entry, parse)
    if stored is not None:
        return stored
    data = build()
    rows = [{"split": name, "prompt": dataclasses.asdict(p)} for name in _SPLITS for p in getattr(data, name)]
    write_entry(entry, rows, {"statistics": dict(data.statistics)})
    return data


def cached_draws(directory: Path | None, key: object, build: Callable[[], Drawn]) -> Drawn:
    """Returns the completions stored under a key, with the cost of their first drawing, or draws and stores them.

    Args:
        directory: Where entries are kept, made if missing; None keeps nothing.
        key: Whatever decides them, JSON-like: fingerprints of prompts, policy, reward, decoding, seed, and the hash of
            the code that draws and scores.
        build: Called on a miss.
    """
    if directory is None:
        return build()
    entry = directory / f"completions-{fingerprint([key, code_hash(__name__)])}"

    def parse(rows: Rows, facts: Facts) -> Drawn:
        completions = tuple(_completion(row["completion"]) for row in rows)
        return Drawn(completions, tuple(row["reward"] for row in rows), facts["n_cut"], Cost(**facts["cost"]))

    stored = read_entry(entry, parse)
    if stored is not None:
        return stored
    built = build()
    facts = {"n_cut": built.n_cut, "cost": dataclasses.asdict(built.cost)}
    scored = zip(built.completions, built.rewards, strict=True)
    write_entry(entry, [{"completion": dataclasses.asdict(one), "reward": reward} for one, reward in scored], facts)
    return built


def _completion(row: Mapping[str, Any]) -> Completion:
    return Completion(**{**row, "token_ids": tuple(row["token_ids"])})


def read_entry(entry: Path, parse: Callable[[Rows, Facts], T]) -> T | None:
    """Returns what an entry holds; None where there is no entry, or none that can be believed."""
    if not entry.exists():
        return None
    try:
        facts = json.loads((entry / _ENTRY).read_text(encoding="utf-8"))
        rows = (entry / _ROWS).read_text(encoding="utf-8")
        if facts["sha256"] != checksum(entry.name, rows, facts["facts"]):
            raise ValueError("its content is not what was written")
        return parse([json.loads(line) for line in rows.splitlines()], facts["facts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("cache entry %s is damaged (%s); it is built again", entry.name, error)
        return None


def write_entry(entry: Path, rows: Rows, facts: Facts) -> None:
    """Stores an entry; where that fails, says so and goes on: the content is there, only not for the next time."""
    try:
        _replace_entry(entry, rows, facts)
    except OSError as error:  # no room, no permission, or another process wrote the same entry meanwhile
        logger.warning("cache entry %s is not kept (%s)", entry.name, error)


def _replace_entry(entry: Path, rows: Rows, facts: Facts) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
    try:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (temporary / _ROWS).write_text(text, encoding="utf-8")
        stated = {"facts": facts, "sha256": checksum(entry.name, text, facts)}
        (temporary / _ENTRY).write_text(json.dumps(stated, indent=1), encoding="utf-8")
        if entry.exists():  # it could not be believed
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        temporary.rename(entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def checksum(name: str, rows: str, facts: Facts) -> str:
    """Returns the hash of an entry's content."""
    return hashlib.sha256(json.dumps([name, rows, facts], sort_keys=True).encode()).hexdigest()
