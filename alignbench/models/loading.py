"""Loading and saving of models: with adapters.py the only caller of `from_pretrained`.

A model is a hub id or a local directory. Dropout is off in every model: a value of 0 is written into its
configuration before it is built, because many families read the configuration at run time and stay random in
training mode when only their dropout modules are changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from alignbench.errors import ModelError, UsageError
from alignbench.models.adapters import adapter_config, adapter_weights, holds, merged, path_or_id, trained_whole
from alignbench.models.chat import Chat
from alignbench.models.checkpoint_weights import check_weights
from alignbench.models.dropout import zero_dropout
from alignbench.models.language_model import LanguageModel
from alignbench.models.load_errors import why_not_loaded
from alignbench.models.policy_file import FILE, LANGUAGE_MODEL, read_policy_file
from alignbench.models.quantization import DTYPES, Quantization, quantized, settled
from alignbench.plugins import METHODS
from alignbench.records import Policy, file_sha256, fingerprint

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
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Loads a causal or encoder-decoder language model with dropout off, in evaluation mode.

    Where `name` holds an adapter, its base model is loaded and the adapter merged into it; the adapter's own tokenizer
    is taken where it has one. With `quantization` the matrices inside the layers have 8 or 4 bits and take no
    gradients; what they are multiplied with has `dtype`.

    `where` is the recipe key named in errors; `shown_as` is the name to record instead of a resolved path. Python code
    that lies with the model, or with the base of an adapter, runs only with `trust_remote_code`.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    if (adapter := adapter_config(name, revision, where, "a language model")) is not None:
        if quantization != "none":
            raise ModelError(
                f"{where}: got {name!r}, an adapter, expected a whole model beside policy.quantization "
                f"{quantization}: an adapter cannot be merged into quantized weights without loss"
            )
        base = load_language_model(
            adapter.base_model_name_or_path,
            where=f"{where}: base model of the adapter {name!r}",
            revision=adapter.revision,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
        )
        model = merged(base.model, name, revision, where)
        tokenizer = base.tokenizer
        if _has_tokenizer(name, revision):
            tokenizer = load_tokenizer(name, revision=revision, where=where, trust_remote_code=trust_remote_code)
        policy = LanguageModel(model, tokenizer, shown_as or name, chat)
        policy.is_as_loaded = False  # no model of that name has the merged weights
        return policy
    config = _load_config(name, revision, where, trust_remote_code)
    _check_writes(config, name, where)
    factory = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    options: dict[str, Any] = {"config": config, "dtype": DTYPES[dtype], "trust_remote_code": trust_remote_code}
    device = device or torch.device("cpu")
    if quantization == "none":
        model = _load_weights(factory, name, revision, where, **options).to(device)
    else:
        options |= quantized(quantization, dtype, device, is_encoder_decoder=config.is_encoder_decoder)
        model = settled(_load_weights(factory, name, revision, where, **options))
    tokenizer = load_tokenizer(name, revision=revision, where=where, trust_remote_code=trust_remote_code)
    return LanguageModel(model.eval(), tokenizer, shown_as or name, chat)


def _check_writes(config: Any, name: str, where: str) -> None:
    """ModelError for a checkpoint of a classifier or an encoder: some load as language models without a word."""
    others = ("Classification", "QuestionAnswering", "ForMaskedLM", "ForMultipleChoice")
    saved_as = (getattr(config, "architectures", None) or [""])[0]
    if any(other in saved_as for other in others):
        raise ModelError(f"{where}: got {name!r}, a {saved_as}, expected a language model that continues texts")


def load_policy(
    name: str | Path, resolve: Callable[[str], str] = str, revision: str | None = None, **options: Any
) -> Policy:
    """Loads a model of the hub, a checkpoint, or what a policy has saved: a language model, or a method's own kind.

    An adapter is merged into its base, so it can be trained further; merging into bfloat16 weights rounds the adapter
    to their precision.

    Args:
        name: Hub id, or path of a checkpoint or an artifact.
        resolve: Turns the recorded name of an adapter's base model into a loadable one.
        revision: Of the hub model, or of that base model.
        options: Passed on to `load_language_model`.

    Raises:
        ModelError: The folder holds no policy, or one of a kind that nothing installed gives.
    """
    directory = Path(name).expanduser()
    is_checkpoint = any((directory / file).is_file() for file in ("config.json", "adapter_config.json"))
    if not directory.is_dir() or (is_checkpoint and not (directory / FILE).is_file()):
        return load_language_model(str(name), revision=revision, **options)
    record = read_policy_file(directory)
    if record["kind"] != LANGUAGE_MODEL:
        part = partial(load_policy, resolve=resolve, revision=revision, **options)
        return _loader_of(record["kind"], directory)(directory, part)
    if record["adapter"]:
        policy = load_language_model(resolve(record["model"]), revision=revision, shown_as=record["model"], **options)
        policy.model = merged(policy.model, str(directory), None, str(directory))
    else:
        policy = load_language_model(str(directory), shown_as=record["model"], **options)
    policy.is_as_loaded = False
    return policy


def _loader_of(kind: str, directory: Path) -> Callable[[Path, Callable[[Path], Policy]], Policy]:
    """What loads the policies of a method."""
    try:
        load = METHODS.load(kind).facts.load_policy
    except UsageError as error:
        raise ModelError(
            f"{directory}: a policy of the kind {kind!r}, which the method of that name loads: {error}; install the "
            "package that brings it"
        ) from error
    if load is None:
        raise ModelError(f"{directory}: a policy of the kind {kind!r}, expected a method that gives one of its own")
    return load  # type: ignore[no-any-return]


_shared: ContextVar[dict[tuple[object, ...], tuple[Any, Any]] | None] = ContextVar("shared", default=None)


@contextmanager
def shared_classifiers() -> Iterator[None]:
    """Within the block the same classifier, asked for again, is not loaded again: its readers share the weights."""
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def load_classifier(
    name: str,
    *,
    where: str,
    revision: str | None = None,
    device: torch.device | None = None,
    labels: Sequence[str] | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Loads a text classifier in float32 with dropout off, and its tokenizer.

    With `labels` the head is replaced by a fresh one with an output of each name, to be trained in batches; all below
    it must be there. Where `name` holds an adapter of a classifier, it is merged into its base model. Python code that
    lies with the classifier runs only with `trust_remote_code`.
    """
    shared = _shared.get() if labels is None else None
    key = (name, revision, device, trust_remote_code)
    if shared is not None and key in shared:
        return shared[key]
    model, tokenizer = _loaded_classifier(name, where, revision, labels, trust_remote_code)
    model = model.to(device or "cpu").eval()
    if shared is not None:
        shared[key] = model, tokenizer
    return model, tokenizer


def _loaded_classifier(
    name: str, where: str, revision: str | None, labels: Sequence[str] | None, trust_remote_code: bool
) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification

    adapter = adapter_config(name, revision, where, "a classifier") if labels is None else None
    if labels is not None and holds(name, "adapter_config.json", revision):
        raise ModelError(
            f"{where}: got {name!r}, an adapter; a reward model starts from a whole model: set method.model"
        )
    if adapter is not None:
        model, tokenizer_of = _adapted_classifier(adapter, name, revision, where, trust_remote_code)
    else:
        config = _load_config(name, revision, where, trust_remote_code)
        if labels is not None:
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: i for i, label in enumerate(labels)}
            config.problem_type = None
        model = _load_weights(
            AutoModelForSequenceClassification, name, revision, where,
            config=config, dtype=torch.float32, fresh_head=labels is not None,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        tokenizer_of = (name, revision)
    tokenizer = load_tokenizer(
        tokenizer_of[0], revision=tokenizer_of[1], where=where, trust_remote_code=trust_remote_code
    )
    if labels is not None:
        _agree_on_padding(model, tokenizer, where)
    return model, tokenizer


def _agree_on_padding(model: Any, tokenizer: Any, where: str) -> None:
    """Gives model and tokenizer one pad token that has an embedding: a decoder's head finds the end of texts by it."""
    config, n_words = model.config.get_text_config(), model.get_input_embeddings().num_embeddings
    candidates = (config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    known = [i for i in candidates if i is not None and 0 <= i < n_words and tokenizer.convert_ids_to_tokens(i)]
    if not known:
        raise ModelError(f"{where}: the tokenizer has no token to pad with; give it a pad token with an embedding")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(known[0])
    config.pad_token_id = known[0]


def _adapted_classifier(
    adapter: Any, name: str, revision: str | None, where: str, trust_remote_code: bool
) -> tuple[Any, tuple[str, str | None]]:
    """A classifier with an adapter merged into it; where its tokenizer is, and in which revision.

    Its labels are those of a config.json beside the adapter, else of the base, where there are as many of them as the
    adapter's head has outputs.
    """
    from transformers import AutoModelForSequenceClassification

    base, of_base = adapter.base_model_name_or_path, (adapter.base_model_name_or_path, adapter.revision)
    own = trained_whole(adapter_weights(name, revision, where))
    config_of = (name, revision) if holds(name, "config.json", revision) else of_base
    config = _load_config(config_of[0], config_of[1], where, trust_remote_code)
    heads = [
        w.shape[0]
        for key, w in own.items()
        if f".{key}".endswith((".score.weight", ".classifier.weight", ".out_proj.weight"))
    ]
    if heads and heads[-1] != config.num_labels:
        config.num_labels = heads[-1]
    at_base = f"{where}: base model of the adapter {name!r}"
    model, info = _loaded(
        AutoModelForSequenceClassification, base, adapter.revision, at_base,
        config=config, dtype=torch.float32, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    check_weights(model, info, base, at_base, fresh_head=True)
    drawn = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])} - own.keys()
    if drawn:
        raise ModelError(
            f"{where}: neither the adapter {name!r} nor its base {base!r} has weights for {sorted(drawn)[0]} "
            f"({len(drawn)}): the head of this classifier was not saved"
        )
    return merged(model, name, revision, where), (name, revision) if _has_tokenizer(name, revision) else of_base


def load_tokenizer(
    name: str, *, where: str = "policy.model", revision: str | None = None, trust_remote_code: bool = False
) -> Any:
    """Loads a tokenizer; it is always given explicit padding by its user, never by a global setting."""
    from transformers import AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, name, revision, where, trust_remote_code=trust_remote_code)
    local, files = Path(name).expanduser(), {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if local.is_dir() and tokenizer.vocab_files_names and not any((local / file).exists() for file in files):
        raise ModelError(  # transformers makes an empty one up
            f"{where}: {name!r} has no tokenizer: none of {', '.join(sorted(files))} is in the folder"
        )
    return tokenizer


def _has_tokenizer(name: str, revision: str | None) -> bool:
    return holds(name, "tokenizer_config.json", revision) or holds(name, "tokenizer.json", revision)


def weights_fingerprint(model: nn.Module) -> str:
    """The first 16 hex digits of a SHA-256 over names, dtypes and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def policy_fingerprint(policy: Policy) -> str:
    """A hash of the weights of a language model, or of all that a policy of another kind saves."""
    if isinstance(policy, LanguageModel):
        return weights_fingerprint(policy.model)
    with TemporaryDirectory() as name:
        policy.save(Path(name))
        files = sorted(path for path in Path(name).rglob("*") if path.is_file())
        return fingerprint([[path.relative_to(name).as_posix(), file_sha256(path)] for path in files])


def n_trainable_parameters(model: nn.Module) -> int:
    """Number of parameters that take gradients."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _load_config(name: str, revision: str | None, where: str, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    return zero_dropout(_from_pretrained(AutoConfig, name, revision, where, trust_remote_code=trust_remote_code))


def has_finite_weights(model: nn.Module) -> bool:
    """True where every trainable weight is a finite number.

    A finite sum says so in one pass; one that is not can also be the sum of large numbers.
    """
    weights = (p.detach() for p in model.parameters() if p.requires_grad)
    return all(bool(p.sum().isfinite()) or bool(p.isfinite().all()) for p in weights)


def _load_weights(
    factory: Any, name: str, revision: str | None, where: str, *, fresh_head: bool = False, **options: Any
) -> Any:
    """Loads a model; ModelError where the checkpoint has other weights than the model computes with."""
    model, info = _loaded(factory, name, revision, where, **options)
    check_weights(model, info, name, where, fresh_head=fresh_head)
    return model


def _loaded(factory: Any, name: str, revision: str | None, where: str, **options: Any) -> tuple[Any, Any]:
    """A model, and what transformers says about its weights, which is to be checked."""
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    return _from_pretrained(factory, name, revision, where, **options)  # type: ignore[no-any-return]


def _from_pretrained(
    factory: Any, name: str, revision: str | None, where: str, *, trust_remote_code: bool, **options: Any
) -> Any:
    local = Path(name).expanduser()
    if (local.is_absolute() or name.startswith((".", "~"))) and not local.is_dir():
        raise ModelError(f"{where}: got {name!r}, expected a directory with a saved model; there is none at that path")
    try:
        # Given in any case: left open, it is asked for on the terminal.
        return factory.from_pretrained(
            path_or_id(name), revision=revision, trust_remote_code=trust_remote_code, **options
        )
    except Exception as error:  # what a damaged or foreign checkpoint raises has no common type
        if not trust_remote_code and "trust_remote_code=True" in str(error):
            raise ModelError(
                f"{where}: {name!r} brings Python code of its own, which runs only where the recipe says so: read it, "
                f"and set `trust_remote_code: true` in its block ({_block(where)})"
            ) from error
        raise ModelError(
            f"{where}: cannot load {name!r} as {factory.__name__}: {why_not_loaded(error, name)}"
        ) from error


def _block(where: str) -> str:
    """The block of a recipe that a key is in, for messages: `policy` for `policy.model: base model of ...`."""
    return where.split(": base model of ")[0].removesuffix(".model").removesuffix(".run")
