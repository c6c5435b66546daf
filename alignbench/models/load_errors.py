"""Why a model, configuration or tokenizer could not be loaded, in words that are true of this case."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def why_not_loaded(error: BaseException, name: str) -> str:
    """A clause on what kept a model from loading, to follow `cannot load X as Y: `.

    Args:
        error: What was raised.
        name: A directory, else a hub id.
    """
    local = Path(name).expanduser()
    found = _missing_package(error) or (_of_directory(error, local) if local.is_dir() else _of_hub(error, name))
    return found or first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of an error's message with its type; the rest is advice for programmers."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    said = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _missing_package(error: BaseException) -> str | None:
    missing = next((one for one in _chain(error) if isinstance(one, ImportError)), None)
    if missing is None:
        return None
    package = f" ({missing.name})" if missing.name else ""
    return f"it needs a package that is not installed{package}: {first_line(error)}"


def _of_hub(error: BaseException, name: str) -> str | None:
    """What an online or offline hub says of an id; there is no directory of that name."""
    from huggingface_hub import constants, errors

    no_folder = f"there is no folder {name}, and "
    for one in _chain(error):
        if isinstance(one, errors.GatedRepoError):
            return "the hub gives it only to those who asked for access on its page: ask there, and `hf auth login`"
        if isinstance(one, errors.RevisionNotFoundError):
            return "the hub has the model, but not this revision of it"
        if isinstance(one, errors.RepositoryNotFoundError):
            return no_folder + "the hub knows no model of that name, or shows it to its owners only"
        if isinstance(one, errors.HFValidationError):
            return no_folder + "a hub id has the form owner/model"
        if isinstance(one, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError)):
            state = "is off limits (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else "cannot be reached"
            return (
                f"{no_folder}it is not in the local hub cache, or not all of it, and the hub {state}: give a path, or "
                "download the model first"
            )
    return None


def _of_directory(error: BaseException, local: Path) -> str | None:
    """What is wrong with a directory, looked up in its files where the error itself says little."""
    if unreadable := [path.name for path in sorted(local.iterdir()) if not os.access(path, os.R_OK)]:
        return f"{unreadable[0]} in it cannot be read: permission denied"
    for path in sorted(local.glob("*.json")):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as broken:
            return f"{path.name} in it is no valid JSON: {broken}"
    said = str(error)
    if not (local / "config.json").exists():
        held = ", ".join(sorted(path.name for path in local.iterdir())[:8]) or "nothing"
        return f"the folder has no config.json; it has {held}"
    if "Unrecognized model in" in said:
        return "its config.json has no model_type"
    if "does not recognize this architecture" in said:
        from transformers import __version__

        return (
            f"its config.json has the model_type {_model_type(local)!r}, which transformers {__version__} does not know"
        )
    if "Unrecognized configuration class" in said:
        return f"its config.json has the model_type {_model_type(local)!r}, a family of which there is no such model"
    return _of_weights(error, local)


def _model_type(local: Path) -> object:
    return json.loads((local / "config.json").read_text(encoding="utf-8")).get("model_type")


def _of_weights(error: BaseException, local: Path) -> str | None:
    """What is wrong with the weight files of a directory."""
    said, names = str(error), {type(one).__name__ for one in _chain(error)}
    if "Error no file named" in said:
        return f"the folder has no weights: no {' or '.join(('model.safetensors', 'pytorch_model.bin'))}"
    if any(isinstance(one, FileNotFoundError) for one in _chain(error)):
        return f"a file that belongs to it is not there: {Path(said.rpartition(': ')[2]).name}"
    if names & {"SafetensorError", "UnpicklingError", "EOFError"}:
        files = (path for pattern in _WEIGHTS for path in sorted(local.glob(pattern)))
        path = next(filter(_is_damaged, files), None)
        where = f"{path.name}, of {path.stat().st_size:,} bytes," if path else "a weight file in it"
        return f"{where} is damaged or not a weight file (an interrupted download, a pointer of Git LFS)"
    return None


def _is_damaged(path: Path) -> bool:
    """True for a file that does not open; tensors of `.bin` files are not looked into."""
    if path.suffix == ".bin":
        return path.read_bytes()[:2] != b"PK"  # what torch.save writes is a zip file
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt"):
            return False
    except (SafetensorError, OSError):
        return True
