"""The trainer's state on disk: tensors in one safetensors file, numbers in one JSON file that vouches for it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.errors import TrainingError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

_TENSORS, _STATE = "state.safetensors", "state.json"


def trainable(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters that take gradients, named `<module>.<parameter>`; parameters shared by two names once."""
    found: dict[str, nn.Parameter] = {}
    for module_name, module in modules.items():
        found |= {f"{module_name}.{name}": p for name, p in module.named_parameters() if p.requires_grad}
    return found


def save(
    directory: Path, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, state: Mapping[str, Any]
) -> None:
    """Writes parameters, optimizer moments and `state` so that a kill at any moment leaves the old or the new state."""
    from safetensors.torch import save_file

    tensors = {f"parameter/{name}": p.detach().contiguous() for name, p in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = value.detach().contiguous()
    directory.mkdir(parents=True, exist_ok=True)
    # The step is part of the tensors' file name: the JSON file, replaced last, always names a whole file.
    tensor_file = directory / f"{state['step']}.{_TENSORS}"
    save_file(tensors, tensor_file)
    record = {"tensors": tensor_file.name, "sha256": _sha256(tensor_file), "state": dict(state)}
    temporary = directory / f"{_STATE}.tmp"
    temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, directory / _STATE)
    for old in directory.glob(f"*.{_TENSORS}"):
        if old != tensor_file:
            old.unlink()


def load(directory: Path, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> dict[str, Any] | None:
    """Restores what `save` wrote, in place, and returns its `state`; None where there is no checkpoint.

    Raises:
        TrainingError: the files do not belong together, or not to this model.
    """
    import torch
    from safetensors.torch import load_file

    if not (directory / _STATE).is_file():
        return None
    try:
        record = json.loads((directory / _STATE).read_text(encoding="utf-8"))
        tensor_file = directory / record["tensors"]
        is_whole = _sha256(tensor_file) == record["sha256"]
    except (OSError, ValueError, KeyError):
        is_whole = False
    if not is_whole:
        raise TrainingError(f"{directory}: the checkpoint is damaged; use --force to start anew")
    tensors = load_file(tensor_file)
    saved = {name.removeprefix("parameter/") for name in tensors if name.startswith("parameter/")}
    if saved != set(parameters):
        raise TrainingError(f"{tensor_file}: the checkpoint belongs to another model; use --force to start anew")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors.pop(f"parameter/{name}"))
    for key_and_name, value in tensors.items():
        key, name = key_and_name.split("/", 1)
        parameter = parameters[name]
        optimizer.state[parameter][key] = value.to(parameter.device)
    return dict(record["state"])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
