"""Whether the weights of a checkpoint are those that a model computes with; what is missing would be random numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from torch import nn

from alignbench.errors import ModelError


def check_weights(model: Any, info: Mapping[str, Any], name: str, where: str, *, fresh_head: bool = False) -> None:
    """ModelError where a checkpoint lacks weights, has them in other shapes, or has some that the model leaves aside.

    Weights that transformers fills by itself (tied ones, and buffers that follow from the configuration) are not
    missing. What belongs to no part of the model, such as the head of another task, may be left aside.

    Args:
        model: As loaded.
        info: The loading info of transformers.
        name: Of the checkpoint.
        where: The recipe key.
        fresh_head: The head is to be drawn anew, so its weights may be missing or of other shapes; no others.
    """
    spared = head_weights(model) if fresh_head else frozenset()
    missing = sorted(set(info["missing_keys"]) - spared)
    unexpected = sorted(info["unexpected_keys"])
    if missing:
        kind, saved_as = type(model).__name__, getattr(model.config, "architectures", None) or [None]
        raise ModelError(
            f"{where}: {name!r} has no weights for {_some(missing)} ({len(missing)} of the {len(model.state_dict())} "
            f"of {kind}): it was not saved as {kind}"
            f"{f' but as {saved_as[0]}' if saved_as[0] not in (None, kind) else ''}; "
            f"give a checkpoint that was trained for this use{_instead(missing, unexpected)}"
        )
    if other_shapes := sorted(one for one in info["mismatched_keys"] if one[0] not in spared):
        key, have, wanted = other_shapes[0]
        raise ModelError(
            f"{where}: {name!r} has weights of other shapes than its configuration says ({len(other_shapes)}): {key} "
            f"is {tuple(have)}, expected {tuple(wanted)}; configuration and weights are not of one model"
        )
    if left_aside := [key for key in unexpected if _has_a_place(model, key)]:
        raise ModelError(
            f"{where}: {name!r} has weights for {_some(left_aside)} ({len(left_aside)}), which {type(model).__name__} "
            "would leave aside as its configuration is; configuration and weights are not of one model"
        )


def head_weights(model: Any) -> frozenset[str]:
    """Names of the weights above the body of a model: its head, a pooler between them included."""
    prefix = f"{model.base_model_prefix}."
    if not hasattr(model, model.base_model_prefix):
        return frozenset()
    return frozenset(key for key in model.state_dict() if not key.startswith(prefix) or "pooler." in key)


def _some(keys: list[str]) -> str:
    return f"{', '.join(keys[:3])}{' and more' if keys[3:] else ''}"


def _instead(missing: list[str], unexpected: list[str]) -> str:
    """What the checkpoint has in place of what is missing, and where that can be told, how it came about."""
    if not unexpected:
        return ""
    wanted = set(missing)
    example = (get_close_matches(missing[0], unexpected, n=1, cutoff=0.0) or unexpected)[0]
    prefix = next((one[: i + 1] for one in unexpected for i in _dots(one) if one[i + 1 :] in wanted), None)
    if prefix and all(one.startswith(prefix) for one in unexpected):
        return (
            f". What it has are {example} and the like, {len(unexpected)} that all begin with {prefix!r}, as where a "
            "model was saved with what it was wrapped in (DataParallel, torch.compile): save the model inside of it"
        )
    return f". What it has and the model has no place for: {example} and the like ({len(unexpected)})"


def _dots(key: str) -> Collection[int]:
    return [i for i, letter in enumerate(key) if letter == "."]


def _has_a_place(model: Any, key: str) -> bool:
    """True where a weight belongs to a module with weights of its own, or to one layer more than a model has."""
    modules = dict(model.named_modules())
    for name in (key, f"{model.base_model_prefix}.{key}"):
        parent = modules.get(name.rpartition(".")[0])
        if parent is not None and next(parent.parameters(recurse=False), None) is not None:
            return True
        parts = name.split(".")
        for i, part in enumerate(parts):
            stack = modules.get(".".join(parts[:i])) if part.isdigit() else None
            if isinstance(stack, nn.ModuleList) and int(part) >= len(stack):
                return True
    return False
