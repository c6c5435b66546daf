"""Loading and saving of models: the only caller of `from_pretrained`.

A model is a hub id or a local directory. Dropout is off in every model: a value of 0 is written into its
configuration before it is built, because many families read the configuration at run time and stay random in
training mode when only their dropout modules are changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alignbench.dropout import zero_dropout
from alignbench.errors import ModelError
from alignbench.language_model import POLICY_FILE, Chat, LanguageModel
from alignbench.quantization import DTYPES, Quantization, quantized, settled

if TYPE_CHECKING:
    from torch import nn


def load_language_model(
    name: str,
    *,
    where: str = "policy.model",
    revision: str | None = None,
    dtype: str = "float32",
    quantization: Quantization = "none",
    device: torch.device | None = None,
    chat: Chat | None = None,
    shown_as: str | None = None,
) -> LanguageModel:
    """Loads a causal or encoder-decoder language model with dropout off, in evaluation mode.

    Where `name` holds a LoRA adapter, its base model is loaded and the adapter merged into it. With `quantization` the
    matrices inside the layers have 8 or 4 bits and take no gradients; what they are multiplied with has `dtype`.

    `where` is the recipe key named in errors; `shown_as` is the name to record instead of a resolved path.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    try:
        config = _load_config(name, revision, where)
    except ModelError:
        adapter = _adapter_config(name, revision)
        if adapter is None:
            raise
        if quantization != "none":
            raise ModelError(
                f"{where}: got {name!r}, an adapter, expected a whole model beside policy.quantization "
                f"{quantization}: an adapter cannot be merged into quantized weights without loss"
            ) from None
        policy = load_language_model(
            adapter.base_model_name_or_path,
            where=f"{where}: base model of the adapter {name!r}",
            revision=adapter.revision,
            dtype=dtype,
            device=device,
            chat=chat,
        )
        policy.name, policy.is_as_loaded = shown_as or name, False  # no model of that name has the merged weights
        return _with_adapter_merged(policy, name, revision)
    factory = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    options: dict[str, Any] = {"config": config, "dtype": DTYPES[dtype]}
    device = device or torch.device("cpu")
    if quantization == "none":
        model = _load_weights(factory, name, revision, where, **options).to(device)
    else:
        options |= quantized(quantization, dtype, device, is_encoder_decoder=config.is_encoder_decoder)
        model = settled(_load_weights(factory, name, revision, where, **options))
    tokenizer = load_tokenizer(name, revision=revision, where=where)
    return LanguageModel(model.eval(), tokenizer, shown_as or name, chat)


def load_policy(
    directory: Path, resolve: Callable[[str], str] = str, revision: str | None = None, **options: Any
) -> LanguageModel:
    """Loads what `LanguageModel.save` wrote; an adapter is merged into its base, so it can be trained further.

    Merging into bfloat16 weights rounds the adapter to their precision.

    Args:
        directory: The artifact.
        resolve: Turns the recorded name of an adapter's base model into a loadable one.
        revision: Of that base model.
        options: Passed on to `load_language_model`.
    """
    try:
        record = json.loads((Path(directory) / POLICY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{directory}: cannot be read as a saved policy: {error}") from error
    if record["adapter"]:
        policy = load_language_model(resolve(record["model"]), revision=revision, shown_as=record["model"], **options)
        _with_adapter_merged(policy, str(directory))
    else:
        policy = load_language_model(str(directory), shown_as=record["model"], **options)
    policy.is_as_loaded = False
    return policy


def _adapter_config(name: str, revision: str | None) -> Any:
    """What a saved adapter says about itself and its base model; None where `name` holds no adapter."""
    from peft import PeftConfig

    try:
        return PeftConfig.from_pretrained(_path_or_id(name), revision=revision)
    except Exception:  # no adapter there, for which peft has no one type of error
        return None


def _with_adapter_merged(policy: LanguageModel, adapter: str, revision: str | None = None) -> LanguageModel:
    from peft import PeftModel

    merged = PeftModel.from_pretrained(policy.model, _path_or_id(adapter), revision=revision).merge_and_unload()
    policy.model = merged.requires_grad_(True).eval()  # peft froze what it wrapped
    return policy


def load_classifier(
    name: str,
    *,
    where: str,
    revision: str | None = None,
    device: torch.device | None = None,
    labels: Sequence[str] | None = None,
) -> tuple[Any, Any]:
    """Loads a text classifier in float32 with dropout off, and its tokenizer.

    With `labels` the head is replaced by a fresh one with an output of each name, to be trained in batches.
    """
    from transformers import AutoModelForSequenceClassification

    config = _load_config(name, revision, where)
    options: dict[str, Any] = {}
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
        config.problem_type = None
        options |= {"ignore_mismatched_sizes": True, "may_lack_weights": True}
    model = _load_weights(
        AutoModelForSequenceClassification, name, revision, where, config=config, dtype=torch.float32, **options
    )
    tokenizer = load_tokenizer(name, revision=revision, where=where)
    if labels is not None:
        _agree_on_padding(model, tokenizer, where)
    return model.to(device or "cpu").eval(), tokenizer


def _agree_on_padding(model: Any, tokenizer: Any, where: str) -> None:
    """Gives model and tokenizer one pad token that has an embedding: a decoder's head finds the end of texts by it."""
    config, n_words = model.config.get_text_config(), model.get_input_embeddings().num_embeddings
    candidates = (config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    known = [i for i in candidates if i is not None and 0 <= i < n_words and tokenizer.convert_ids_to_tokens(i)]
    if not known:
        raise ModelError(f"{where}: the tokenizer has no token to pad with; give it a pad token with an embedding")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(known[0])
    config.pad_token_id = known[0]


def load_tokenizer(name: str, *, where: str = "policy.model", revision: str | None = None) -> Any:
    """Loads a tokenizer; it is always given explicit padding by its user, never by a global setting."""
    from transformers import AutoTokenizer

    return _from_pretrained(AutoTokenizer, name, revision, where)


def weights_fingerprint(model: nn.Module) -> str:
    """The first 16 hex digits of a SHA-256 over names, dtypes and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def n_trainable_parameters(model: nn.Module) -> int:
    """Number of parameters that take gradients."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _load_config(name: str, revision: str | None, where: str) -> Any:
    from transformers import AutoConfig

    return zero_dropout(_from_pretrained(AutoConfig, name, revision, where))


def has_finite_weights(model: nn.Module) -> bool:
    """True where every trainable weight is a finite number."""
    return all(bool(torch.isfinite(p).all()) for p in model.parameters() if p.requires_grad)


def _load_weights(
    factory: Any, name: str, revision: str | None, where: str, *, may_lack_weights: bool = False, **options: Any
) -> Any:
    """Loads a model; ModelError where the checkpoint lacks weights, which would be filled with random numbers."""
    model, info = _from_pretrained(factory, name, revision, where, output_loading_info=True, **options)
    missing = sorted(info["missing_keys"])
    if missing and not may_lack_weights:
        raise ModelError(
            f"{where}: {name!r} has no weights for {', '.join(missing[:3])}{' and more' if missing[3:] else ''}: "
            f"it was not saved as {type(model).__name__}; give a checkpoint that was trained for this use"
        )
    return model


def _from_pretrained(factory: Any, name: str, revision: str | None, where: str, **options: Any) -> Any:
    local = Path(name).expanduser()
    if (local.is_absolute() or name.startswith((".", "~"))) and not local.is_dir():
        raise ModelError(f"{where}: got {name!r}, expected a directory with a saved model; there is none at that path")
    try:
        return factory.from_pretrained(_path_or_id(name), revision=revision, **options)
    except Exception as error:  # what a damaged or foreign checkpoint raises has no common type
        raise ModelError(
            f"{where}: cannot load {name!r} as {factory.__name__}: it is neither a local directory with that model "
            "nor in the local hub cache, or the hub cannot be reached; give a path, or download it first "
            f"({_first_line(error)})"
        ) from error


def _path_or_id(name: str) -> str:
    local = Path(name).expanduser()
    return str(local) if local.is_dir() else name


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
