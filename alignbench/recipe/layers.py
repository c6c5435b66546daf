"""Recipe files: finding them, and merging their layers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from alignbench.errors import Problem, RecipeError, UsageError, did_you_mean
from alignbench.recipe import feedback
from alignbench.recipe.scorers import with_located_files
from alignbench.recipe.yaml import read_yaml, refusal

_MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Layer:
    """Settings from one place, to be laid over those from another."""

    label: str
    """How messages call the place: a file, `--set`, the overrides of a suite."""
    values: Mapping[str, Any]
    directory: Path
    """Where the file that it extends is sought first."""

    def without(self, *keys: str) -> Layer:
        """Returns the layer without some keys; `a.b` means key b of block a."""
        values: dict[str, Any] = {
            key: {inner: item for inner, item in value.items() if f"{key}.{inner}" not in keys}
            if isinstance(value, Mapping)
            else value
            for key, value in self.values.items()
            if key not in keys
        }
        return Layer(self.label, values, self.directory)

    def with_located_files(self) -> Layer:
        """Returns the layer with the files beside its own named as seen from the current folder.

        These are the files that scorers name, and neutral texts, of the reward and evaluation blocks.
        """
        values = dict(self.values)
        for block, key in (("reward", "also"), ("evaluation", "scorers")):
            if isinstance(values.get(block), Mapping):
                values[block] = located = with_located_files(values[block], self._beside)
                if isinstance(located.get(key), list):
                    located[key] = [
                        with_located_files(one, self._beside) if isinstance(one, Mapping) else one
                        for one in located[key]
                    ]
                if isinstance(located.get("neutral"), str):
                    located["neutral"] = self._beside(located["neutral"])
        for block in feedback.BLOCKS:
            if isinstance(values.get(block), Mapping):
                values[block] = feedback.with_located_files(block, values[block], self._beside)
        return Layer(self.label, values, self.directory)

    def _beside(self, file: str) -> str:
        """A file as seen from the current folder, where it lies beside the layer's; else as it is."""
        beside = self.directory / file
        if Path(file).is_absolute() or not beside.is_file():
            return file
        return Path(os.path.relpath(beside)).as_posix()


def merge(layers: Sequence[Layer]) -> dict[str, Any]:
    """Lays each layer over those before it: mappings merge, everything else (null and lists too) replaces."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge_mappings(merged, layer.values)
    return merged


def _merge_mappings(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        if isinstance(value, Mapping):
            below = merged.get(key)
            value = _merge_mappings(below if isinstance(below, Mapping) else {}, value)
        merged[key] = value
    return merged


def expand(layer: Layer) -> list[Layer]:
    """Returns the layer, preceded by the file that it `extends`, if any.

    Raises:
        RecipeError: if the extended file cannot be used, or extends another itself.
    """
    if layer.values.get("extends") is None:
        return [layer.without("extends")]
    wanted = layer.values["extends"]
    where = f"{layer.label}: extends"
    if not isinstance(wanted, str):
        raise RecipeError([Problem(where, repr(wanted), "the path of one file, such as _shared/gpt_neo_125m.yaml")])
    path = find_recipe(wanted, layer.directory, where=where)
    block = Layer(display(path), read_file(path), path.parent)
    if block.values.get("extends") is not None:
        problem = Problem(
            where, f"{wanted!r}, which extends another file itself", "one level: extend that file instead"
        )
        raise RecipeError([problem])
    return [block.without("extends"), layer.without("extends")]


def shipped_directory() -> Path:
    """Returns the folder of the recipes that come with alignbench."""
    return Path(str(files("alignbench_recipes")))


def shipped_names() -> list[str]:
    """Returns the names under which the shipped recipes and suites are found, such as `suites/quickstart`."""
    root = shipped_directory()
    found = [*root.glob("*.yaml"), *root.glob("suites/*.yaml")]
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in found)


def find_recipe(name: str, directory: Path, *, where: str = "recipe") -> Path:
    """Finds a file by path or name, with or without `.yaml`: in a directory, then among the shipped recipes.

    Raises:
        UsageError: if there is no such file; names the nearest shipped ones.
    """
    root = shipped_directory()
    for folder in (directory, root, root / "suites"):
        for candidate in (folder / name, folder / f"{name}.yaml"):
            if candidate.is_file():
                return candidate
    if (directory / name).is_dir():
        raise UsageError(f"{where}: {name!r} is a directory; name the recipe file inside it")
    known = shipped_names()
    short = {path.rpartition("/")[2]: path for path in known} | {path: path for path in known}
    hint = did_you_mean(Path(name).with_suffix("").as_posix(), list(short)) or did_you_mean(
        Path(name).stem, list(short)
    )
    raise UsageError(
        f"{where}: no file {name!r} here and no shipped recipe of that name{hint} (shipped: {', '.join(known)})"
    )


def display(path: Path) -> str:
    """Returns a path as messages show it: relative to the current folder or to the shipped recipes, else whole."""
    plain = Path(os.path.normpath(path.absolute()))
    for root in (Path.cwd(), shipped_directory()):
        if plain.is_relative_to(root):
            return plain.relative_to(root).as_posix()
    return str(plain)


def read_file(path: Path) -> dict[str, Any]:
    """Reads a recipe file into a mapping.

    Raises:
        UsageError: if the file cannot be opened.
        RecipeError: if it is no YAML mapping; the problem names line and column.
    """
    label = display(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{label}: cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise refusal(label, f"a file of {len(data):,} bytes", f"a YAML recipe, at most {_MAX_BYTES:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refusal(label, "a binary file", "a YAML recipe in UTF-8") from error
    if "\0" in text:
        raise refusal(label, "a binary file", "a YAML recipe in UTF-8")
    values = read_yaml(text, label)
    if values is None:
        raise refusal(label, "an empty file", "a recipe: see `alignbench methods`, or copy a shipped one")
    if not isinstance(values, dict):
        raise refusal(label, f"a {'list' if isinstance(values, list) else 'single value'}", "`key: value` lines")
    return values
