"""What a checkpoint's generation config asks for: kept where it can be saved, and said to be ignored.

Protocols and methods say how completions are sampled, for every model alike. Only what a generation config says about
special tokens is followed (special_tokens.py, `forward.decoder_start`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alignbench.models.forward import base_model

if TYPE_CHECKING:
    from alignbench.models.special_tokens import Ends

_CHANGES_SAMPLING = (
    *("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff", "num_beams"),
    *("repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
    *("sequence_bias", "force_words_ids", "constraints", "min_length", "min_new_tokens", "stop_strings"),
    *("exponential_decay_length_penalty", "penalty_alpha", "dola_layers", "guidance_scale", "watermarking_config"),
    "max_time",
)
"""Fields that change which completions come out, the limit of their length apart."""
_NEUTRAL = {
    **{"temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0},
    **{"num_beams": 1, "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0},
    **{"encoder_no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0, "guidance_scale": 1.0},
}
"""What changes nothing, beside None, empty lists, and a top_k of 0."""


def ignored_settings(config: Any) -> dict[str, Any]:
    """What a generation config (or None) asks for and does not get, by name."""
    asked = {name: getattr(config, name, None) for name in _CHANGES_SAMPLING}
    asked["top_k"] = asked["top_k"] or None
    return {name: value for name, value in asked.items() if value not in (None, [], {}, _NEUTRAL.get(name))}


def notes_on(ends: Ends, ignored: Mapping[str, Any], *, keeps_a_cache: bool) -> list[str]:
    """Sentences on how completions of a model come about, where a user might expect otherwise."""
    notes = list(ends.left_out)
    if not ends.token_ids:
        notes.append("no token ends its completions, so each of them runs to its token limit or a stop string")
    if ignored:
        asked = ", ".join(f"{name} {value}" for name, value in ignored.items())
        notes.append(
            f"its generation config asks for {asked[:300]}: ignored, as the recipe says how completions are sampled"
        )
    if not keeps_a_cache:
        notes.append("it keeps no key-value cache, so every token that it samples takes a full pass")
    return notes


def made_saveable(model: Any) -> dict[str, Any]:
    """Frees a model's generation config of what cannot be saved; returns what it asked for and will not get."""
    inner = base_model(model)
    config = getattr(inner, "generation_config", None)
    if config is not None:
        inner.generation_config = saveable(config)
    return ignored_settings(config)


def saveable(config: Any) -> Any:
    """The generation config without what transformers refuses to save, such as a temperature beside greedy decoding.

    What is left means the same to `generate`: the flags that go are those it ignores.
    """
    from transformers import GenerationConfig

    if _is_valid(config):
        return config
    kept, default = GenerationConfig(), GenerationConfig()
    asked = {name: value for name, value in config.to_diff_dict().items() if hasattr(default, name)}
    for name in sorted(asked, key=lambda name: name != "do_sample"):  # the others are judged by it
        setattr(kept, name, asked[name])
        if not _is_valid(kept):
            setattr(kept, name, getattr(default, name))
    return kept


def _is_valid(config: Any) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True
