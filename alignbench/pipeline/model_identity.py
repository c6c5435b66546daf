"""All that decides the numbers of a model, for the keys of what is kept of it: not its weights alone."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from alignbench.models.loading import weights_fingerprint
from alignbench.scorers.base import modules_of

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel


def identity_of(policy: LanguageModel) -> list[Any]:
    """All of a language model that decides what it draws and says: weights, settings, code, tokenizer, ends."""
    return [
        weights_fingerprint(policy.model),
        _settings(policy.model),
        _words(policy.tokenizer),
        list(policy.eos_ids),
        policy.pad_id,
        None if policy.chat is None else dataclasses.asdict(policy.chat),
    ]


def reading_of(scorer: Any) -> list[Any]:
    """What a scorer's fingerprint does not say, which has its weights and what is made of them: how a text is read."""
    tokenizer = getattr(scorer, "tokenizer", None)
    return [*map(_settings, modules_of(scorer)), None if tokenizer is None else _words(tokenizer)]


def _settings(model: Any) -> list[Any]:
    config: Any = getattr(model, "config", None)
    kind = [type(model).__module__, type(model).__qualname__]
    if not hasattr(config, "to_dict"):
        return kind
    settings = config.to_dict() | {"attention": getattr(config, "_attn_implementation", None)}
    return [*kind, json.dumps(settings, sort_keys=True, default=str)]


def _words(tokenizer: Any) -> list[Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = sorted(tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    return [type(tokenizer).__qualname__, words, repr(tokenizer), getattr(tokenizer, "chat_template", None)]
