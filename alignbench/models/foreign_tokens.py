"""A policy of one tokenizer beside a reference of another, which reads token ids of its own."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal

from alignbench.models.language_model import LanguageModel
from alignbench.models.special_tokens import n_embeddings
from alignbench.records import Completion, FinishReason, Prompt

logger = logging.getLogger(__name__)

Tokens = Literal["same", "same but padding", "other"]
"""`same but padding`: the reference's matrices have rows that stand for no token, and the policy's have not."""
_SHOWN = 3


def fitted(policy: LanguageModel, reference: LanguageModel) -> Tokens:
    """Returns whether a policy and a reference have the same tokens, and has the policy answer by these alone.

    What a policy has besides them, such as a pad token that was added for training, loses its row; it is named. Where
    it ends its completions by such a token, or a token of the reference is another one here, they are `other`.
    """
    own, known = policy.tokenizer.get_vocab(), reference.tokenizer.get_vocab()
    more = sorted(own.keys() - known.keys())
    if any(own.get(word) != token for word, token in known.items()) or {own[word] for word in more} & {*policy.eos_ids}:
        logger.warning(
            "%s has other tokens than %s: KL and neutral perplexity are withheld, and lengths and perplexity are those "
            "of its texts in the tokens of %s",
            *(policy.name, reference.name, reference.name),
        )
        return "other"
    n, most = n_embeddings(policy.model), n_embeddings(reference.model)
    if n > most:
        policy.model.resize_token_embeddings(most)
    if more and n > most:
        shown = ", ".join(more[:_SHOWN]) + (" ..." if more[_SHOWN:] else "")
        logger.warning("%s answers without tokens that %s lacks: %s", policy.name, reference.name, shown)
    return "same" if n >= most else "same but padding"


def retold(reader: LanguageModel, prompt: Prompt, completion: Completion, most_tokens: int | None = None) -> Completion:
    """Returns a completion with the token ids that a model reads its text as; the text is cut where they are too many.

    Args:
        reader: The model.
        prompt: Whose completion it is.
        completion: Its text and how it ended count; its token ids are replaced.
        most_tokens: The most that are kept, no more than the model has room for after the prompt.
    """
    ids = reader.text_tokenizer.encode(completion.text)
    before = reader.encode_prompt(prompt)
    room = reader.context_tokens - (0 if reader.is_encoder_decoder else len(before))
    most = room if most_tokens is None else min(most_tokens, room)
    finish: FinishReason = completion.finish_reason
    if len(ids) > most:
        ids = ids[:most]
        return replace(completion, text=reader.decode(ids, before), token_ids=tuple(ids), finish_reason="length")
    if finish == "eos":
        end = reader.eos_id
        ids, finish = ([*ids, end], "eos") if end is not None and len(ids) < room else (ids, "stop")
    return replace(completion, token_ids=tuple(ids), finish_reason=finish)
