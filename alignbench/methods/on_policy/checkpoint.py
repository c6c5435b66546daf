"""The trainer's state on disk: tensors in one safetensors file, numbers in one JSON file that vouches for it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.errors import TrainingError
from alignbench.identity import not_identity, require_same
from alignbench.methods.on_policy.config import OnPolicyConfig
from alignbench.methods.on_policy.placement import placed_like, whole
from alignbench.models.fast.layers import choice
from alignbench.records import file_sha256
from alignbench.runtime import distributed, progress

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

_TENSORS, _STATE = "state.safetensors", "state.json"
_FORMAT = 3


def save(
    directory: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: Optimizer,
    state: Mapping[str, Any],
    identity: Mapping[str, object],
) -> None:
    """Writes parameters, optimizer moments, random states and `state`; a kill leaves the old or the new state whole.

    Of several processes all call it, and the first one writes.
    """
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for key, value in {"parameter": parameter, **optimizer.state.get(parameter, {})}.items():
            # In 8 bits, AdamW counts its steps in plain integers, and its tensors share two tables of numbers.
            tensor = whole(value.detach()) if isinstance(value, torch.Tensor) else torch.tensor(value)
            if distributed.rank() == 0:
                tensors[f"{key}/{name}"] = tensor.clone() if key.startswith("qmap") else tensor.cpu().contiguous()
    if distributed.rank() > 0:
        return
    tensors |= _torch_states()
    directory.mkdir(parents=True, exist_ok=True)
    # The step is part of the tensors' file name: the JSON file, replaced last, always names a whole file.
    tensor_file = directory / f"{state['step']}.{_TENSORS}"
    save_file(tensors, tensor_file)
    record = {
        "format": _FORMAT,
        "tensors": tensor_file.name,
        "sha256": file_sha256(tensor_file),
        "identity": dict(identity),
        "state": dict(state),
        "random": _plain_states(),
        "kernels": choice.state(),
    }
    temporary = directory / f"{_STATE}.tmp"
    temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")
    os.replace(temporary, directory / _STATE)
    for old in directory.glob(f"*.{_TENSORS}"):
        if old != tensor_file:
            old.unlink()
    progress.checkpoint_at(state["step"])


def load(
    directory: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: Optimizer,
    identity: Mapping[str, object],
) -> dict[str, Any] | None:
    """Restores what `save` wrote, in place, and returns its `state`; None where there is no checkpoint.

    Everything is checked before anything is changed: the files against their hash, names, shapes and precision
    against the model, and `identity` against the saved one.

    Raises:
        TrainingError: the files do not belong together, or not to this model and run.
    """
    import torch
    from safetensors.torch import load_file

    if not (directory / _STATE).is_file():
        return None
    try:
        record = json.loads((directory / _STATE).read_text(encoding="utf-8"))
        if record.get("format") != _FORMAT:
            raise TrainingError(f"{directory}: the checkpoint is of another version; use --force to start anew")
        tensor_file = directory / record["tensors"]
        is_whole = file_sha256(tensor_file) == record["sha256"]
    except (OSError, ValueError, KeyError):
        is_whole = False
    if not is_whole:
        raise TrainingError(f"{directory}: the checkpoint is damaged; use --force to start anew")
    require_same(str(directory), record["identity"], identity, frozenset(not_identity(OnPolicyConfig)))
    tensors = load_file(tensor_file)
    saved = {name.removeprefix("parameter/"): value for name, value in tensors.items() if name.startswith("parameter/")}
    if {name: _kind(value) for name, value in saved.items()} != {name: _kind(p) for name, p in parameters.items()}:
        raise TrainingError(f"{tensor_file}: the checkpoint belongs to another model; use --force to start anew")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(placed_like(tensors.pop(f"parameter/{name}"), parameter))
    random_states = {name: tensors.pop(name) for name in list(tensors) if name.startswith("random/")}
    for key_and_name, value in tensors.items():
        key, name = key_and_name.split("/", 1)
        parameter = parameters[name]
        # AdamW counts its steps on the CPU, or beside the parameter where it is fused on a GPU.
        if key == "step" and value.dtype == torch.int64:
            optimizer.state[parameter][key] = int(value)
        else:
            is_moment = value.shape == parameter.shape
            optimizer.state[parameter][key] = placed_like(value, parameter) if is_moment else value.to(parameter.device)
    if distributed.rank() == 0:  # whose they are; the others stay different from it
        _set_torch_states(random_states)
        _set_plain_states(record["random"])
    choice.adopt(record.get("kernels"))
    progress.checkpoint_at(record["state"].get("step"))
    return dict(record["state"])


def _kind(tensor: Tensor) -> tuple[Any, Any]:
    return tuple(tensor.shape), tensor.dtype


def _torch_states() -> dict[str, Tensor]:
    """The global generators of torch: the trainer does not draw from them, a reward function may."""
    import torch

    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"random/cpu": torch.get_rng_state()} | {f"random/cuda{i}": state for i, state in enumerate(on_gpus)}


def _set_torch_states(states: Mapping[str, Tensor]) -> None:
    import torch

    torch.set_rng_state(states["random/cpu"])
    for i in range(torch.cuda.device_count()):
        if f"random/cuda{i}" in states:
            torch.cuda.set_rng_state(states[f"random/cuda{i}"], i)


def _plain_states() -> dict[str, Any]:
    """The global generators of Python and numpy, as JSON can hold them."""
    import numpy as np

    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002  (the global one is meant)
    state["state"]["key"] = state["state"]["key"].tolist()
    return {"python": random.getstate(), "numpy": state}


def _set_plain_states(states: Mapping[str, Any]) -> None:
    import numpy as np

    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    state = states["numpy"]
    state["state"]["key"] = np.array(state["state"]["key"], dtype=np.uint32)
    np.random.set_state(state)  # noqa: NPY002
