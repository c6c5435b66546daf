"""What the copies of models and data on this machine say about their licences; nothing is fetched."""

from __future__ import annotations

from pathlib import Path

from alignbench.pipeline.inputs import hub_commit, hub_folder, model_folder
from datasets_prep import sources

_EMBEDDED = "apache-2.0"
"""Of the embedded world, which is a part of alignbench."""


def model_licence(name: str, revision: str | None) -> str | None:
    """Returns the licence of a model; None where its copy states none, or there is no copy."""
    return _EMBEDDED if name.startswith("embedded/") else _stated(model_folder(name, revision))


def data_licence(source: str) -> str | None:
    """Does the same for data, by the name that a recipe gives them."""
    if source == "embedded" or source.startswith("embedded/"):
        return _EMBEDDED
    known = sources.find(source, "prompts")
    hub_id = known.hub_id if known is not None else source
    if hub_id is None or Path(source).expanduser().exists():
        return _stated(Path(source).expanduser())
    commit = hub_commit(hub_id, "dataset", None)
    return _stated(hub_folder(hub_id, "dataset") / "snapshots" / commit) if commit else None


def _stated(folder: Path | None) -> str | None:
    """The `license` at the head of a README.md, as cards on the hub have it."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        head = (folder / "README.md").read_text(encoding="utf-8") if folder else ""
        _, opening, rest = head.partition("---\n")
        values = YAML(typ="safe", pure=True).load(rest.partition("\n---")[0]) if opening else None
    except (OSError, ValueError, YAMLError):
        return None
    licence = values.get("license") if isinstance(values, dict) else None
    return str(licence) if licence else None
