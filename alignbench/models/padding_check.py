"""Whether the log-probabilities of a text depend on what is beside it in a batch.

Batches are padded, positions are counted over real tokens, and sampling keeps a cache. Some families of models take
no part in this: they count positions from the first column, let padding through a convolution or a recurrence, or
remember something else than keys and values. Then a text's numbers would change with its neighbours, and nothing
would show it. So each model is asked once, with texts of a few tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignbench.errors import AlignbenchError, ModelError
from alignbench.models.forward import base_model, collate, completion_forward, decoder_start, is_encoder_decoder
from alignbench.models.sampling.capture import Capture
from alignbench.models.sampling.sampler import sample
from alignbench.models.sampling.token_draw import uniforms
from alignbench.models.special_tokens import n_embeddings
from alignbench.records import Decoding
from alignbench.runtime.randomness import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alignbench.models.language_model import LanguageModel

TOLERANCE = 1e-3
"""In nats, of the largest difference in float32."""
ROUNDED_TOLERANCE = 0.1
"""In nats, of the root of the mean squared difference where weights have fewer bits: 16, 8 or 4."""
_PROMPT_TOKENS, _COMPLETION_TOKENS = (3, 11, 3), (9, 2, 5)
"""The first and the last prompt are equal: sampling reads them once. Completions end at different times."""


@torch.no_grad()
def check_padding(policy: LanguageModel) -> float:
    """Compares the bare model on each text alone with padded batches and with sampling.

    Returns:
        The largest difference of log-probabilities in nats.

    Raises:
        ModelError: It is larger than rounding explains, or the model takes no padded batches at all.
    """
    try:
        found = _differences(policy)
    except AlignbenchError:
        raise
    except Exception as error:  # what a forward pass raises that was not made for this has no common type
        raise ModelError(
            f"{_named(policy)} cannot be run on batches of texts: {type(error).__name__}: "
            f"{str(error).strip().partition(chr(10))[0]}; use a model of another family"
        ) from error
    is_whole = all(p.dtype == torch.float32 for p in policy.model.parameters())
    tolerance = TOLERANCE if is_whole else ROUNDED_TOLERANCE
    for way, difference in found.items():
        size = (difference.abs().max() if is_whole else difference.square().mean().sqrt()).item()
        if not size <= tolerance:
            raise ModelError(
                f"{_named(policy)}: log-probabilities of a text {way} differ by {size:.2g} nats from those of the "
                f"model on the text alone, expected at most {tolerance:g}: the other texts of a batch would change its "
                "numbers; use a model of another family"
            )
    return max(difference.abs().max().item() for difference in found.values())


def _named(policy: LanguageModel) -> str:
    return f"policy.model: {policy.name!r} (family {base_model(policy.model).config.model_type})"


def _differences(policy: LanguageModel) -> dict[str, Tensor]:
    """Differences of log-probabilities in nats, by the way in which the texts were passed."""
    model, pad_id = policy.model, policy.pad_id
    prompts, lengths = _prompts(policy), _fitting(_COMPLETION_TOKENS, policy, share=3)
    u = uniforms(("padding check",), [(str(i), 0) for i in range(len(prompts))], max(lengths))
    capture = Capture()
    decoding = Decoding(max(lengths))
    drawn = sample(model, prompts, lengths, u, decoding, eos_id=None, pad_id=pad_id, capture=capture)
    completions = [one.token_ids for one in drawn]
    alone = [_alone(model, prompt, tokens) for prompt, tokens in zip(prompts, completions, strict=True)]
    for_encoder = is_encoder_decoder(model)
    batch = collate(prompts, completions, pad_id, policy.device, for_encoder=for_encoder)
    together = completion_forward(model, batch)[0].float().log_softmax(dim=-1)
    padded, sampled = [], []
    for row, (one, tokens) in enumerate(zip(alone, completions, strict=True)):
        n = len(tokens)
        padded.append(_difference(together[row, :n], one).flatten())
        chosen = one.gather(-1, torch.tensor(tokens, device=one.device).unsqueeze(-1)).squeeze(-1)
        sampled.append(_difference(capture.logprobs[0][row, :n], chosen))
    return {"in a padded batch": torch.cat(padded), "as it is sampled": torch.cat(sampled)}


def _difference(found: Tensor, expected: Tensor) -> Tensor:
    """Zero where both are minus infinity: some models never give a token, such as one that fills up the vocabulary."""
    return torch.where(found == expected, 0.0, found - expected)


def _alone(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    """Log-probabilities (t, V) before each token of a completion, by nothing but the model and the tokens."""
    device = next(model.parameters()).device
    if is_encoder_decoder(model):
        tokens = torch.tensor([[decoder_start(model), *completion[:-1]]], device=device)
        logits = model(input_ids=torch.tensor([prompt], device=device), decoder_input_ids=tokens).logits[0]
    else:
        logits = model(input_ids=torch.tensor([[*prompt, *completion]], device=device)).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(dim=-1)  # type: ignore[no-any-return]


def _prompts(policy: LanguageModel) -> list[tuple[int, ...]]:
    """Prompts of ordinary tokens, always the same ones for a model."""
    config = base_model(policy.model).config
    special = {*policy.tokenizer.all_special_ids, *_named_tokens(config.to_dict())}
    n_words = n_embeddings(policy.model)
    ordinary = [i for i in range(min(n_words, 50_000)) if i not in special] or list(range(n_words))
    lengths = _fitting(_PROMPT_TOKENS, policy, share=2)
    numbers = generator("padding check").choice(ordinary, size=max(lengths)).tolist()
    return [tuple(numbers[-n:]) for n in lengths]


def _fitting(lengths: Sequence[int], policy: LanguageModel, share: int) -> list[int]:
    """Lengths in tokens, cut where the model reads very short texts alone."""
    return [max(1, min(n, policy.context_tokens // share)) for n in lengths]


def _named_tokens(config: Any) -> set[int]:
    """Tokens with a meaning of their own that a configuration names, such as that of an image."""
    found: set[int] = set()
    for name, value in config.items():
        if isinstance(value, dict):
            found |= _named_tokens(value)
        elif str(name).endswith(("token_id", "token_index")) and isinstance(value, int):
            found.add(value)
    return found
