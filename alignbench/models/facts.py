"""What a checkpoint says of itself, without its weights being read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from alignbench.errors import ModelError
from alignbench.models.load_errors import why_not_loaded
from alignbench.models.loading import load_tokenizer


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A language model before it is loaded."""

    architecture: str
    is_encoder_decoder: bool
    context_tokens: int | None
    """The longest sequence; None where the configuration sets no limit."""
    n_parameters: int
    has_pad_token: bool
    has_chat_template: bool
    tokenizer: Any


def look_at_policy(name: str) -> ModelFacts:
    """Reads configuration and tokenizer of a language model; ModelError where they cannot be had."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config, tokenizer = _config(name), load_tokenizer(name)
    factory = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            n_parameters = factory.from_config(config).num_parameters()
    except Exception as error:  # what a configuration of another kind raises has no common type
        raise ModelError(f"policy.model: {name!r} is no language model: {why_not_loaded(error, name)}") from error
    text = config.get_text_config()
    limits = (getattr(text, key, None) for key in ("max_position_embeddings", "n_positions", "n_ctx"))
    return ModelFacts(
        architecture=(config.architectures or [type(config).__name__])[0],
        is_encoder_decoder=bool(config.is_encoder_decoder),
        context_tokens=next((int(one) for one in limits if one), None),
        n_parameters=int(n_parameters),
        has_pad_token=tokenizer.pad_token_id is not None,
        has_chat_template=bool(getattr(tokenizer, "chat_template", None)),
        tokenizer=tokenizer,
    )


def labels_of(name: str) -> list[str]:
    """The names of a classifier's classes; ModelError where its configuration cannot be had."""
    return [str(label) for label in _config(name).id2label.values()]


def _config(name: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # as above
        raise ModelError(f"{name!r} cannot be looked at: {why_not_loaded(error, name)}") from error
