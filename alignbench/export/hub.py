"""Putting an exported model on the hub, where there is a token for it."""

from __future__ import annotations

from pathlib import Path

from alignbench.errors import ResultsError, UsageError


def require_token() -> None:
    """UsageError where this machine has no token of the hub: before anything is loaded."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise UsageError("--push: got no token of the hub, expected one in HF_TOKEN, or `hf auth login` before")


def push(directory: Path, name: str) -> str:
    """Uploads a folder to a private model repository, made where there is none; returns its address.

    ResultsError where the hub refuses; the folder stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        api = HfApi()
        address = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(folder_path=directory, repo_id=address.repo_id)
    except (OSError, HFValidationError, HfHubHTTPError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ResultsError(f"--push {name}: the hub did not take it: {first}; {directory} stays") from error
    return str(address)
