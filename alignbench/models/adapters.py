"""Adapters: fresh ones, and those that peft has saved, merged into their base models."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alignbench.errors import ModelError, did_you_mean
from alignbench.models.forward import is_encoder_decoder
from alignbench.models.load_errors import first_line, why_not_loaded

if TYPE_CHECKING:
    from torch import Tensor, nn

_PREFIX = "base_model.model."
"""Begins every name of the base model in a saved adapter."""
_KINDS = {"CAUSAL_LM": "a language model", "SEQ_2_SEQ_LM": "a language model", "SEQ_CLS": "a classifier"}


@dataclass(frozen=True, slots=True)
class Lora:
    """A low-rank adapter (Hu et al. 2021)."""

    r: int = 16
    alpha: float = 32.0
    target_modules: tuple[str, ...] | None = None
    """None is the default of peft for the model family."""


def lora_config(lora: Lora, model: nn.Module) -> Any:
    """The peft configuration of an adapter on a language model; ModelError where a module is not in it."""
    from peft import LoraConfig

    known = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "weight")})
    for wanted in lora.target_modules or ():
        if wanted not in known:
            hint = did_you_mean(wanted, known)
            raise ModelError(f"policy.lora.target_modules: got {wanted!r}, expected layers of the model, {known}{hint}")
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=list(lora.target_modules) if lora.target_modules else None,
        task_type="SEQ_2_SEQ_LM" if is_encoder_decoder(model) else "CAUSAL_LM",
    )


def path_or_id(name: str) -> str:
    """A directory with `~` expanded where there is one of that name, else the hub id."""
    local = Path(name).expanduser()
    return str(local) if local.is_dir() else name


def holds(name: str, file: str, revision: str | None = None) -> bool:
    """True where a directory, or the hub or its local cache under an id, has a file."""
    from transformers.utils import cached_file

    local = Path(name).expanduser()
    if local.is_dir():
        return (local / file).is_file()
    try:
        missing_is_none = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}
        return cached_file(name, file, revision=revision, **missing_is_none) is not None
    except Exception:  # no such model, or no access: loading it will say so
        return False


def adapter_config(name: str, revision: str | None, where: str, kind: str) -> Any:
    """What a saved adapter says about itself and its base; None where `name` holds none.

    Raises:
        ModelError: It cannot be read or merged, is not of `kind` (`a language model`, `a classifier`), or lies beside a
            whole model, so that it cannot be told which of the two is meant.
    """
    if not holds(name, "adapter_config.json", revision):
        return None
    from peft import PeftConfig  # a second of imports, which a whole model does without

    for file in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        if holds(name, file, revision):
            raise ModelError(
                f"{where}: got {name!r}, which holds an adapter (adapter_config.json) and a whole model ({file}): move "
                "away the one that is not meant"
            )
    try:
        config = PeftConfig.from_pretrained(path_or_id(name), revision=revision)
    except KeyError as error:
        raise ModelError(f"{where}: the adapter {name!r} is of a kind that peft does not know: {error}") from error
    except Exception as error:  # peft has no one type of error
        raise ModelError(f"{where}: the adapter {name!r} cannot be read: {why_not_loaded(error, name)}") from error
    got = _KINDS.get(config.task_type or "", kind)
    if got != kind:
        raise ModelError(f"{where}: got {name!r}, an adapter of {got} ({config.task_type}), expected {kind}")
    if config.is_prompt_learning:
        raise ModelError(
            f"{where}: got {name!r}, an adapter of the kind {config.peft_type.value}: it puts trained tokens before a "
            "text, and cannot be merged into weights; expected one that changes weights, such as LoRA"
        )
    if not config.base_model_name_or_path:
        raise ModelError(f"{where}: the adapter {name!r} does not name its base model (base_model_name_or_path)")
    return config


def adapter_weights(name: str, revision: str | None, where: str) -> Mapping[str, Tensor]:
    """The tensors of a saved adapter by name, on the CPU."""
    from peft.utils.save_and_load import load_peft_weights

    files = ("adapter_model.safetensors", "adapter_model.bin")
    if not any(holds(name, file, revision) for file in files):
        raise ModelError(f"{where}: the adapter {name!r} has no weights: no {' or '.join(files)}")
    try:
        return load_peft_weights(path_or_id(name), device="cpu", revision=revision)  # type: ignore[no-any-return]
    except Exception as error:
        raise ModelError(f"{where}: the adapter {name!r} has no readable weights: {first_line(error)}") from error


def merged(model: Any, name: str, revision: str | None, where: str) -> Any:
    """A base model with an adapter merged into it, all its weights trainable; the base is used up.

    A base with fewer or more tokens than the embeddings that the adapter holds is resized to these.

    Raises:
        ModelError: The adapter does not fit the base, or cannot be merged.
    """
    from peft import PeftModel, get_peft_model_state_dict

    weights = adapter_weights(name, revision, where)
    try:
        # What is drawn for the parts to come is replaced by the adapter's weights: nothing is to change by it.
        with torch.random.fork_rng(), warnings.catch_warnings():
            _resize(model, weights, name, where)
            warnings.simplefilter("ignore")  # on missing keys, which are checked below, and on tied embeddings
            wrapped = PeftModel.from_pretrained(model, path_or_id(name), revision=revision)
            wanted = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
            taken = wanted | set(wrapped.state_dict())
            whole = wrapped.merge_and_unload()
    except ModelError:
        raise
    except Exception as error:  # what does not fit is a RuntimeError here, a KeyError there
        raise ModelError(
            f"{where}: the adapter {name!r} cannot be merged into its base: {first_line(error)}"
        ) from error
    missing, left = wanted - set(weights), {key for key in weights if key not in taken and not _is_wrapper(key)}
    if missing or left:
        what, keys = ("lacks weights for", missing) if missing else ("has weights for parts that its base lacks,", left)
        raise ModelError(
            f"{where}: the adapter {name!r} {what} {sorted(keys)[0]} ({len(keys)} of {len(weights)}): its weights, its "
            "configuration and its base do not belong together"
        )
    return whole.requires_grad_(True).eval()  # peft froze what it wrapped


def _is_wrapper(key: str) -> bool:
    """True for the second and third names that peft gives weights which were trained whole."""
    return ".modules_to_save." in key or ".original_module." in key


def _resize(model: Any, weights: Mapping[str, Tensor], name: str, where: str) -> None:
    """Gives a base as many tokens as the embeddings of an adapter have, which will take the place of its own."""
    rows = model.get_input_embeddings().weight.shape[0]
    wanted = _rows(model, model.get_input_embeddings(), weights)
    if wanted is None or wanted == rows:
        return
    output = model.get_output_embeddings()
    is_tied = output is not None and output.weight is model.get_input_embeddings().weight
    if wanted > rows and output is not None and not is_tied and _rows(model, output, weights) != wanted:
        raise ModelError(
            f"{where}: the adapter {name!r} has embeddings of {wanted} tokens and no output layer for them, its base "
            f"has {rows}: nothing says with what probability the other {wanted - rows} are drawn"
        )
    model.resize_token_embeddings(wanted, mean_resizing=False)


def _rows(model: Any, layer: Any, weights: Mapping[str, Tensor]) -> int | None:
    """Rows that an adapter's own copy of a layer has; None where it has no copy."""
    place = next(name for name, module in model.named_modules() if module is layer)
    own = weights.get(f"{_PREFIX}{place}.weight")
    return None if own is None else int(own.shape[0])


def trained_whole(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an adapter that replace whole ones of the base, by their names there."""
    return {key.removeprefix(_PREFIX): value for key, value in weights.items() if not _is_wrapper(key)}
