"""Prompt lengths in tokens: the drawn length, the cut, and what does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from alignbench.records import Messages, Prompt
from datasets_prep.settings import PROMPT
from datasets_prep.splits import stable_hash, whole_text_hash
from datasets_prep.text_forms import normalised_text

_BROKEN_CHARACTER = "\ufffd"


class TextTokenizer(Protocol):
    """The two calls that data preparation needs from a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Returns token ids without special tokens."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Returns the text of token ids."""
        ...


@runtime_checkable
class ReadsConversations(Protocol):
    """A tokenizer of a chat model: it also knows how long a conversation is."""

    def conversation_length(self, messages: Messages) -> int:
        """Returns its tokens under the chat template, less what the template adds to a single message."""
        ...


def drawn_length(seed: int, prompt_id: str, lowest: int, highest: int) -> int:
    """Returns a length in tokens, uniform on lowest..highest with both ends, from the seed and the id alone."""
    return lowest + stable_hash(seed, "prompt_tokens", prompt_id) % (highest - lowest + 1)


def wrapped(template: str | None, text: str) -> str:
    """Returns a text in its template."""
    return text if template is None else template.replace(PROMPT, text)


def prompt_length(tokenizer: TextTokenizer, prompt: Prompt) -> int:
    """Returns the tokens of a prompt, less what a chat template adds to a single message."""
    if prompt.messages is None:
        return len(tokenizer.encode(prompt.text))
    assert isinstance(tokenizer, ReadsConversations)
    return tokenizer.conversation_length(prompt.messages)


@dataclass
class PromptCutter:
    """Cuts prompts and counts those that cannot be used."""

    tokenizer: TextTokenizer
    context_tokens: int
    """Longest prompt in tokens that is used."""
    prompt_tokens: tuple[int, int] | None
    """Range of the drawn lengths; None: prompts are not cut."""
    seed: int
    template: str | None = None
    """What each prompt is put into after it was cut; None: prompts are as they are."""
    _seen: set[str] = field(default_factory=set, init=False)

    def cut(
        self, pool: Sequence[Prompt], max_prompts: int | None, counts: Counter[str]
    ) -> Iterator[tuple[Prompt, Prompt]]:
        """Yields each usable prompt, uncut and cut, at most `max_prompts` of them.

        A cut text that this cutter has yielded before, from this pool or another, is not used again.
        """
        n_used = 0
        for index, uncut in enumerate(pool):
            if n_used == max_prompts:
                counts["n_over_max_prompts"] = len(pool) - index
                return
            text, reason = self._fit(uncut)
            if reason is not None:
                counts[reason] += 1
                continue
            self._seen.add(normalised_text(text))
            n_used += 1
            cut = self._wrapped(uncut, text)
            yield uncut, replace(cut, whole_text_hash=whole_text_hash(uncut))

    def _wrapped(self, prompt: Prompt, text: str) -> Prompt:
        """The prompt with this text in the template; of a conversation its last message stands there."""
        if self.template is None or prompt.messages is None:
            return replace(prompt, text=wrapped(self.template, text))
        *before, (role, content) = prompt.messages
        messages = (*before, (role, wrapped(self.template, content)))
        return replace(prompt, text=text[: len(text) - len(content)] + messages[-1][1], messages=messages)

    def _fit(self, prompt: Prompt) -> tuple[str, str | None]:
        """Returns the text to use and None, or the name of the statistic that counts why there is none."""
        if prompt.messages is not None:
            return self._fit_conversation(prompt)
        text, token_ids = prompt.text, self.tokenizer.encode(prompt.text)
        if self.prompt_tokens is not None:
            lowest, highest = self.prompt_tokens
            if len(token_ids) < lowest:
                return "", "n_too_short"
            length = drawn_length(self.seed, prompt.id, lowest, highest)
            if len(token_ids) > length:
                text, token_ids = self._cut_text(token_ids, length)
                if not token_ids:
                    return "", "n_uncuttable"
        n_tokens = (
            len(token_ids) if self.template is None else prompt_length(self.tokenizer, self._wrapped(prompt, text))
        )
        if n_tokens > self.context_tokens:
            return "", "n_too_long"
        if normalised_text(text) in self._seen:
            return "", "n_duplicate_after_cut"
        return text, None

    def _fit_conversation(self, prompt: Prompt) -> tuple[str, str | None]:
        """The same for a conversation, which is never cut."""
        length = prompt_length(self.tokenizer, prompt)
        lowest, highest = self.prompt_tokens or (0, length)
        reason = None
        if length < lowest:
            reason = "n_too_short"
        elif length > highest:
            reason = "n_uncuttable"
        elif prompt_length(self.tokenizer, self._wrapped(prompt, prompt.text)) > self.context_tokens:
            reason = "n_too_long"
        elif normalised_text(prompt.text) in self._seen:
            reason = "n_duplicate_after_cut"
        return prompt.text, reason

    def _cut_text(self, token_ids: Sequence[int], length: int) -> tuple[str, list[int]]:
        """Returns the text of the first `length` tokens and what it is encoded as; ("", []) where no cut is right.

        A cut may fall inside a character, and the text of some tokens may be encoded as another number of tokens than
        it was decoded from. Then the next shorter cut is tried, so that the policy reads lowest..highest tokens.
        """
        assert self.prompt_tokens is not None
        lowest, highest = self.prompt_tokens
        for n_tokens in range(length, lowest - 1, -1):
            text = self.tokenizer.decode(token_ids[:n_tokens])
            if not text.strip() or text.endswith(_BROKEN_CHARACTER):
                continue
            encoded = self.tokenizer.encode(text)
            if lowest <= len(encoded) <= highest:
                return text, encoded
        return "", []
