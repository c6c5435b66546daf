"""What a run reads beside its recipe: data, weights, tokenizers, templates, earlier runs; each with a hash.

A recipe names these by path or id, and what lies there may change while the recipe does not. The hashes are recorded
with the run and looked at again when it is to be skipped, resumed or compared. No model is loaded for them, and nothing
is fetched: of what is not on this machine there is no hash, and it is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.code_hash import PROJECT
from alignbench.recipe.roles import key_of
from alignbench.records import file_sha256, fingerprint
from alignbench.results.schema import PROMPTS_AS_ENCODED, SNAPSHOT
from datasets_prep import sources
from datasets_prep.settings import named_source
from datasets_prep.sources.base import Kind

if TYPE_CHECKING:
    from alignbench.models.chat import Chat
    from alignbench.recipe.recipe import Recipe

Named = dict[str, dict[str, str]]
"""By recipe key: files or facts, and the hash of each."""

_EMBEDDED = {"embedded": "embedded/prompts"}
_PROBES = ("x", "The old dog said: 3 + 4 = 7?", " Ünïcode, 漢字\n\tand white space ")
_READ = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken")
"""Endings of the files beside the weights that decide what a model or tokenizer is."""
_WEIGHTS = (".safetensors", ".bin")
"""Endings of weights; the later ones are read where there are none of the earlier."""


def inputs_of(recipe: Recipe, artifacts: Mapping[str, Path]) -> Named:
    """Returns what a recipe reads, as far as it can be told now.

    Args:
        recipe: The recipe.
        artifacts: Artifact directories of upstream runs, by role (`policy`, `reward`).
    """
    found: Named = {}
    for key, source, revision in _data_sources(recipe):
        found[key] = _data(source, revision, "texts" if key == "evaluation.neutral" else "prompts")
    for key, name, revision in _checkpoints(recipe):
        found |= _model(key, name, revision)
    for setting, name in recipe.method.facts.reads(recipe.method).items():
        path = Path(name).expanduser()
        found |= {f"method.{setting}": _data(name, None)} if path.is_file() else _model(f"method.{setting}", name, None)
    for role, artifact in artifacts.items():
        found[key_of(role)] = _model_files(artifact)
    encoded = _prompts_as_encoded(recipe)
    if encoded is not None:
        found.setdefault("policy.model", {})[PROMPTS_AS_ENCODED] = encoded
    return {key: parts for key, parts in found.items() if parts}


def _data_sources(recipe: Recipe) -> Iterator[tuple[str, str, str | None]]:
    """Key, source and revision of all data that a recipe names."""
    data, evaluation = recipe.data, recipe.evaluation
    yield "data.prompts", _EMBEDDED.get(data.prompts, data.prompts), data.revision
    if data.heldout is not None:
        yield "data.heldout", data.heldout, data.revision if data.heldout == data.prompts else None
    if evaluation.prompts is not None and evaluation.split == "heldout":
        settings = named_source(evaluation.prompts)
        yield "evaluation.prompts", _EMBEDDED.get(settings.prompts, settings.prompts), settings.revision
    for key, block in (("demonstrations.source", recipe.demonstrations), ("pairs.source", recipe.pairs)):
        if block is not None and block.source is not None:
            settings = named_source(block.source)
            yield key, _EMBEDDED.get(settings.prompts, settings.prompts), settings.revision
    if evaluation.neutral is not None:
        own_texts = "embedded/neutral" if evaluation.neutral == "embedded" else evaluation.neutral
        yield "evaluation.neutral", own_texts, None


def _checkpoints(recipe: Recipe) -> Iterator[tuple[str, str, str | None]]:
    """Key, name and revision of all models that a recipe names."""
    yield "policy.model", recipe.policy.model, recipe.policy.revision
    start = recipe.method.facts.own_start(recipe.method)
    if start is not None and start.model is not None:
        yield "method.model", start.model, None
    reward = recipe.reward
    if reward is not None:
        yield from ((f"reward.{model.key}", model.name, model.revision) for _, model in reward.named_models())
    blocks: dict[str, Any] = {f"reward.also.{term.name}": term for term in (reward.also if reward else ())}
    for scorer in recipe.evaluation.scorers:
        if not isinstance(scorer, str):
            blocks[f"evaluation.scorers.{scorer.name}"] = scorer
        elif reward is not None and reward.classifier is not None:
            yield "evaluation.scorers.reward", reward.classifier, reward.revision
    for where, asked in recipe.asked_models():
        yield from ((f"{where}.{model.key}", model.name, model.revision) for model in asked.models())
    for key, block in blocks.items():
        yield from ((f"{key}{suffix}", model.name, model.revision) for suffix, model in block.named_models())


def _data(source: str, revision: str | None, gives: Kind = "prompts") -> dict[str, str]:
    """Hashes of a source of prompts or texts: of its files and of a package's code, or the commit of a hub data set."""
    path = _embedded(source) or Path(source).expanduser()
    if path.is_file():
        return {path.name: _sha(path)}
    if source and path.is_dir():
        files = (file for file in path.rglob("*") if "/." not in f"/{file.relative_to(path).as_posix()}")
        return _hashes(path, files)
    known = sources.find(source, gives)
    found = {} if known is None else {file.name: _sha(file) for file in known.files() if file.is_file()}
    if known is not None and known.read.__module__.partition(".")[0] not in PROJECT:
        found["code"] = str(sources.code_of(source))
    hub_id = source if known is None else known.hub_id
    commit = None if hub_id is None else hub_commit(hub_id, "dataset", revision)
    return found if commit is None else {**found, "commit": commit}


def _model(key: str, name: str, revision: str | None) -> Named:
    """Hashes of a model's files, and of those of its base where it is an adapter."""
    folder = model_folder(name, revision)
    if folder is None:
        return {}
    base, files = _adapter_base(folder), _model_files(folder)
    if folder.parent == hub_folder(name, "model") / "snapshots":
        files[SNAPSHOT] = folder.name
    return {key: files} | (_model(f"{key}: base of the adapter", *base) if base else {})


def _adapter_base(folder: Path) -> tuple[str, str | None] | None:
    """Name and revision of an adapter's base model; None where a whole model lies."""
    if (folder / "config.json").exists():
        return None
    try:
        adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return str(adapter["base_model_name_or_path"]), adapter.get("revision")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _model_files(folder: Path) -> dict[str, str]:
    """Hashes of the files of a saved model that loading reads, by name."""
    files = [*folder.glob("*"), *folder.glob("additional_chat_templates/*.jinja")]
    weights: list[Path] = []
    for ending in _WEIGHTS:
        weights = weights or [file for file in files if file.suffix == ending]
    return _hashes(folder, [*(file for file in files if file.suffix in _READ), *weights])


def model_folder(name: str, revision: str | None) -> Path | None:
    """Where a model lies on this machine; None where it does not."""
    if name.startswith("embedded/"):
        return _embedded(name)
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    commit = hub_commit(name, "model", revision)
    if commit is None:
        return None
    snapshot = hub_folder(name, "model") / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def _embedded(name: str) -> Path | None:
    """Where a part of the embedded world lies; None for another name."""
    from alignbench.embedded import world

    return world.resolve(name) if name in world.PARTS else None


def hub_folder(name: str, kind: str) -> Path:
    """Where this machine's cache has, or would have, a hub model or data set (`model`, `dataset`)."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"  # any name: it need not be an id


def hub_commit(name: str, kind: str, revision: str | None) -> str | None:
    """The commit of a hub model or data set that this machine's cache holds; None where it holds none."""
    folder = hub_folder(name, kind)
    if revision is not None and (folder / "snapshots" / revision).is_dir():
        return revision
    try:
        return (folder / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _hashes(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    return {file.relative_to(folder).as_posix(): _sha(file) for file in sorted(files) if file.is_file()}


def _sha(file: Path) -> str:
    state = file.stat()
    return sha_of_state(file, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def sha_of_state(file: Path, _inode: int, _size: int, _changed: int) -> str:
    """Hash of a file as it is, computed once in a command that runs a whole suite on it."""
    return file_sha256(file)[:16]


def _prompts_as_encoded(recipe: Recipe) -> str | None:
    """Hash of what the policy's tokenizer and the chat template make of some texts, today and with these libraries.

    A template may look at the date, and another release of a library may split texts otherwise: files do not tell.
    None where that cannot be told: what cannot be loaded or rendered says so where it is used.
    """
    from alignbench.models.chat import Chat

    policy = recipe.policy
    folder = model_folder(policy.model, policy.revision)
    base = _adapter_base(folder) if folder else None
    folder = model_folder(*base) if base else folder
    if folder is None:
        return None
    chat = Chat(recipe.chat.system, recipe.chat.template) if recipe.chat else None
    try:
        tokenizer = _tokenizer(folder, fingerprint(_model_files(folder)), policy.trust_remote_code)
        return fingerprint([_encoded(text, tokenizer, chat) for text in _PROBES])
    except Exception:  # a template raises whatever it likes
        return None


@lru_cache(maxsize=16)
def _tokenizer(folder: Path, _files: str, trust_remote_code: bool) -> Any:
    """The tokenizer that lies in a folder, loaded once for a suite."""
    from alignbench.models.loading import load_tokenizer

    return load_tokenizer(str(folder), trust_remote_code=trust_remote_code)


def _encoded(text: str, tokenizer: Any, chat: Chat | None) -> list[Any]:
    """The text as the template renders it, and its token ids."""
    if chat is not None:
        text = tokenizer.apply_chat_template(
            chat.messages(text), chat_template=chat.template, add_generation_prompt=True, tokenize=False
        )
    return [text, list(tokenizer(text, add_special_tokens=chat is None)["input_ids"])]
