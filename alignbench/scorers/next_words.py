"""Which of some named words a language model would write next, as probabilities: what guards and graders answer by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from alignbench.errors import ModelError
from alignbench.models.flops import tokens_of, weights_of
from alignbench.models.forward import collate
from alignbench.models.shared_prompts import next_logits

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel

Encode = Callable[[str], list[int]]


class NextWords:
    """The probabilities of named words at the position after a text, of one pass and without drawing anything.

    A word is known by its first token, so no two may begin with the same one.
    """

    def __init__(self, model: LanguageModel, words: Sequence[str], encode: Encode, before: str, where: str) -> None:
        """Finds the token of each word.

        Args:
            model: The language model.
            words: The words, each with the white space that stands before it.
            encode: Token ids of a text that ends as all texts will.
            before: Such a text: the words are looked for behind it.
            where: The key of the recipe that has the words, for errors.

        Raises:
            ModelError: A word has no token of its own behind that text.
        """
        self.model, self.words = model, tuple(words)
        self._ids = [_next_id(encode, before, word, where) for word in self.words]
        for word, token in zip(self.words, self._ids, strict=True):
            twin = self.words[self._ids.index(token)]
            if twin != word:
                shown = model.tokenizer.convert_ids_to_tokens(token)
                raise ModelError(
                    f"{where}: {twin!r} and {word!r} begin with the same token ({shown!r}), expected words that the "
                    "next token tells apart"
                )

    @torch.no_grad()
    def probabilities(self, texts: Sequence[Sequence[int]]) -> list[list[float] | None]:
        """The probability of each word after each text, a list of token ids; None where the context is too short."""
        found: list[list[float] | None] = [None] * len(texts)
        fitting = [i for i, ids in enumerate(texts) if 0 < len(ids) < self.model.context_tokens]
        fitting.sort(key=lambda i: len(texts[i]))
        for start in range(0, len(fitting), self.model.batch_size):
            places = fitting[start : start + self.model.batch_size]
            for i, row in zip(places, self._pass([texts[i] for i in places]), strict=True):
                found[i] = row
        return found

    def _pass(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        model = self.model
        batch = collate(
            texts, [self._ids[:1]] * len(texts), model.pad_id, model.device, for_encoder=model.is_encoder_decoder
        )
        model.spent.forward_flops += weights_of(model.model).flops(tokens_of(batch))
        logits = next_logits(model.model, texts, model.pad_id, model.device).double()
        probabilities: list[list[float]] = logits.softmax(dim=-1)[:, self._ids].tolist()
        return probabilities


def _next_id(encode: Encode, before: str, word: str, where: str) -> int:
    """The first token of a word behind a text; ModelError where the tokenizer joins the word with that text."""
    ids, whole = encode(before), encode(before + word)
    if not word or whole[: len(ids)] != ids or len(whole) == len(ids):
        raise ModelError(
            f"{where}: {word!r} has no token of its own behind {before[-20:]!r}, expected a text that ends without "
            "white space, and the white space at the beginning of the word"
        )
    return whole[len(ids)]
