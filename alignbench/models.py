"""Loading and saving of models: the only caller of `from_pretrained`.

A model is a hub id or a local directory. Dropout is off in every model: a value of 0 is written into its
configuration before it is built, because many families read the configuration at run time and stay random in
training mode when only their dropout modules are changed.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alignbench.errors import ModelError
from alignbench.generation import SequenceBatch, collate, completion_forward, sample, token_logprobs, uniforms
from alignbench.records import Completion, Decoding, Prompt
from alignbench.runtime import Key

if TYPE_CHECKING:
    from torch import Tensor, nn

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_POLICY_FILE = "policy.json"


@dataclass(frozen=True, slots=True)
class Chat:
    """How a prompt becomes a chat turn."""

    system: str | None = None
    template: str | None = None
    """Jinja text; None is the tokenizer's own template."""


@dataclass(frozen=True, slots=True)
class Lora:
    """A low-rank adapter (Hu et al. 2021)."""

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] | None = None
    """None is the default of peft for the model family."""


@dataclass(frozen=True, slots=True)
class PlainTokenizer:
    """A tokenizer without special tokens: what data preparation counts and cuts prompts with."""

    tokenizer: Any

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids."""
        return str(self.tokenizer.decode(list(token_ids)))


class LanguageModel:
    """A causal language model with its tokenizer and chat format. Implements `records.Policy`."""

    def __init__(self, model: Any, tokenizer: Any, name: str, chat: Chat | None = None, batch_size: int = 64) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        """The hub id or path that it was loaded from."""
        self.chat = chat
        self.batch_size = batch_size
        """Sequences in one forward pass without gradients."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def eos_id(self) -> int | None:
        """The end-of-sequence token of the tokenizer."""
        return self.tokenizer.eos_token_id  # type: ignore[no-any-return]

    @property
    def pad_id(self) -> int:
        """Fills empty positions, which are always masked: any token serves where the tokenizer has no pad token."""
        candidates = (self.tokenizer.pad_token_id, self.eos_id, 0)
        return next(i for i in candidates if i is not None)

    @property
    def context_tokens(self) -> int:
        """The longest sequence, prompt and completion together."""
        config = self.model.config
        limits = [getattr(config, key, None) for key in ("max_position_embeddings", "n_positions", "n_ctx")]
        known = [limit for limit in (*limits, self.tokenizer.model_max_length) if limit]
        return int(min(known))

    @property
    def has_adapter(self) -> bool:
        """True where a LoRA adapter is attached."""
        return hasattr(self.model, "disable_adapter")

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a prompt as the model sees it: chat template and special tokens included."""
        if self.chat is None:
            ids = list(self.tokenizer(text)["input_ids"])
            ends_with_eos = len(ids) > 1 and ids[-1] == self.eos_id and not text.endswith(self.tokenizer.eos_token)
            return ids[:-1] if ends_with_eos else ids
        messages = [{"role": "user", "content": text}]
        if self.chat.system is not None:
            messages.insert(0, {"role": "system", "content": self.chat.system})
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages, chat_template=self.chat.template, add_generation_prompt=True, tokenize=False
            )
        except Exception as error:
            raise ModelError(f"chat: the template cannot render a prompt for {self.name!r}: {error}") from error
        return list(self.tokenizer(rendered, add_special_tokens=False)["input_ids"])

    @property
    def text_tokenizer(self) -> PlainTokenizer:
        """The tokenizer as data preparation uses it."""
        return PlainTokenizer(self.tokenizer)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def generate(self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Key) -> list[Completion]:
        """Samples `n_samples` completions of every prompt, prompt-major."""
        repeated = [prompt for prompt in prompts for _ in range(n_samples)]
        samples = list(range(n_samples)) * len(prompts)
        return self.complete(repeated, samples, [decoding.max_new_tokens] * len(repeated), decoding, key)

    def complete(
        self, prompts: Sequence[Prompt], samples: Sequence[int], limits: Sequence[int], decoding: Decoding, key: Key
    ) -> list[Completion]:
        """Samples one completion per row: sample number `samples[i]` of `prompts[i]`, of at most `limits[i]` tokens.

        Every draw is keyed by (key, prompt id, sample number, position).
        """
        encoded = [self.encode_prompt(prompt.text) for prompt in prompts]
        self._check_context(encoded, limits)
        completions = []
        for start in range(0, len(prompts), self.batch_size):
            rows = range(start, min(start + self.batch_size, len(prompts)))
            drawn = sample(
                self.model,
                [encoded[i] for i in rows],
                [limits[i] for i in rows],
                uniforms(key, [(prompts[i].id, samples[i]) for i in rows], max(limits)),
                decoding,
                eos_id=self.eos_id,
                pad_id=self.pad_id,
            )
            completions += [
                Completion(prompts[i].id, samples[i], self.decode(one.token_ids), one.token_ids, one.finish_reason)
                for i, one in zip(rows, drawn, strict=True)
            ]
        return completions

    def _check_context(self, encoded: Sequence[Sequence[int]], limits: Sequence[int]) -> None:
        longest = max(len(ids) + limit for ids, limit in zip(encoded, limits, strict=True))
        if longest > self.context_tokens:
            raise ModelError(
                f"{self.name!r} takes {self.context_tokens} tokens; prompt and completion together need {longest}: "
                "shorten data.prompt_tokens, or filter with data.max_prompt_chars"
            )

    def batch(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> SequenceBatch:
        """Lays prompts and their completions into one padded batch on the model's device."""
        encoded = [self.encode_prompt(prompt.text) for prompt in prompts]
        return collate(encoded, [completion.token_ids for completion in completions], self.pad_id, self.device)

    @torch.no_grad()
    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Tensor]:
        """Log-probabilities in nats, one float32 CPU tensor (len(token_ids),) per completion."""
        logprobs: list[Tensor] = []
        for start in range(0, len(completions), self.batch_size):
            rows = slice(start, start + self.batch_size)
            batch = self.batch(prompts[rows], completions[rows])
            logits, _ = completion_forward(self.model, batch)
            values = token_logprobs(logits, batch.completion_ids).cpu()
            logprobs += [row[mask] for row, mask in zip(values, batch.completion_mask.cpu(), strict=True)]
        return logprobs

    def add_adapter(self, lora: Lora) -> None:
        """Attaches a fresh LoRA adapter: trainable, and without effect until it is trained."""
        from peft import get_peft_model

        self.model = get_peft_model(self.model, lora_config(lora))

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """Within the block the model is the one that the adapter was attached to."""
        with self.model.disable_adapter():
            yield

    def frozen_copy(self) -> LanguageModel:
        """A copy that shares nothing with this model and takes no gradients."""
        return LanguageModel(
            copy.deepcopy(self.model).requires_grad_(False).eval(),
            self.tokenizer,
            self.name,
            self.chat,
            self.batch_size,
        )

    def save(self, directory: str | Path) -> None:
        """Writes weights (safetensors; only the adapter where there is one), tokenizer and `policy.json`.

        No absolute path is written: the base model stands in `policy.json` under the name in the recipe.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if self.has_adapter:
            for config in self.model.peft_config.values():
                config.base_model_name_or_path = self.name
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        record = {"kind": "language_model", "model": self.name, "adapter": self.has_adapter}
        (directory / _POLICY_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def lora_config(lora: Lora) -> Any:
    """The peft configuration of an adapter on a causal language model."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules) if lora.target_modules else None,
        task_type="CAUSAL_LM",
    )


def load_language_model(
    name: str,
    *,
    where: str = "policy.model",
    revision: str | None = None,
    dtype: str = "float32",
    device: torch.device | None = None,
    chat: Chat | None = None,
    shown_as: str | None = None,
) -> LanguageModel:
    """Loads a causal language model with dropout off, in evaluation mode.

    `where` is the recipe key named in errors; `shown_as` is the name to record instead of a resolved path.
    """
    from transformers import AutoModelForCausalLM

    config = _load_config(name, revision, where)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{where}: {name!r} is an encoder-decoder model; this version trains causal models only")
    model = _from_pretrained(AutoModelForCausalLM, name, revision, where, config=config, dtype=DTYPES[dtype])
    tokenizer = load_tokenizer(name, revision=revision, where=where)
    return LanguageModel(model.to(device or "cpu").eval(), tokenizer, shown_as or name, chat)


def load_policy(directory: Path, resolve: Callable[[str], str], **options: Any) -> LanguageModel:
    """Loads what `LanguageModel.save` wrote; an adapter is merged into its base, so it can be trained further.

    `resolve` turns the recorded base model name into a loadable one; `options` go to `load_language_model`.
    """
    try:
        record = json.loads((directory / _POLICY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{directory / _POLICY_FILE}: cannot be read as the record of a saved policy: {error}"
        ) from error
    if not record["adapter"]:
        return load_language_model(str(directory), shown_as=record["model"], **options)
    from peft import PeftModel

    base = load_language_model(resolve(record["model"]), shown_as=record["model"], **options)
    merged = PeftModel.from_pretrained(base.model, str(directory)).merge_and_unload()
    base.model = merged.requires_grad_(True).eval()  # peft froze what it wrapped
    return base


def load_classifier(
    name: str,
    *,
    where: str,
    revision: str | None = None,
    device: torch.device | None = None,
    labels: Sequence[str] | None = None,
) -> tuple[Any, Any]:
    """Loads a text classifier in float32 with dropout off, and its tokenizer.

    With `labels` the head is replaced by a fresh one with an output of each name.
    """
    from transformers import AutoModelForSequenceClassification

    config = _load_config(name, revision, where)
    options: dict[str, Any] = {}
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
        config.problem_type = None
        options["ignore_mismatched_sizes"] = True
    model = _from_pretrained(
        AutoModelForSequenceClassification, name, revision, where, config=config, dtype=torch.float32, **options
    )
    tokenizer = load_tokenizer(name, revision=revision, where=where)
    if tokenizer.pad_token is None:
        # Only a name for empty places: decoder classifiers find the last real token by it.
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.to(device or "cpu").eval(), tokenizer


def load_tokenizer(name: str, *, where: str = "policy.model", revision: str | None = None) -> Any:
    """Loads a tokenizer; it is always given explicit padding by its user, never by a global setting."""
    from transformers import AutoTokenizer

    return _from_pretrained(AutoTokenizer, name, revision, where)


def without_dropout(config: Any) -> Any:
    """Sets every dropout probability of a model configuration to 0, in place."""
    for key, value in config.to_dict().items():
        if "drop" in key and isinstance(value, (int, float)) and not isinstance(value, bool):
            setattr(config, key, 0.0)
    return config


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

    return without_dropout(_from_pretrained(AutoConfig, name, revision, where))


def _from_pretrained(factory: Any, name: str, revision: str | None, where: str, **options: Any) -> Any:
    local = Path(name).expanduser()
    if (local.is_absolute() or name.startswith((".", "~"))) and not local.is_dir():
        raise ModelError(f"{where}: got {name!r}, expected a directory with a saved model; there is none at that path")
    try:
        return factory.from_pretrained(str(local) if local.is_dir() else name, revision=revision, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{where}: cannot load {name!r} as {factory.__name__}: it is neither a local directory with that model "
            "nor in the local hub cache, or the hub cannot be reached; give a path, or download it first "
            f"({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
