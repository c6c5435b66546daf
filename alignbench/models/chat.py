"""How a prompt is put to a chat model, and the tokenizer as data preparation sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignbench.errors import ModelError
from alignbench.records import EncodesPrompts, Messages, Prompt


@dataclass(frozen=True, slots=True)
class Chat:
    """How a prompt becomes a chat turn."""

    system: str | None = None
    template: str | None = None
    """Jinja text; None is the tokenizer's own template."""

    def messages(self, prompt: str, conversation: Messages | None = None) -> list[dict[str, str]]:
        """What the template is given: a conversation where there is one, with its own system message if it has any."""
        turns = conversation or (("user", prompt),)
        if self.system is not None and turns[0][0] != "system":
            turns = (("system", self.system), *turns)
        return [{"role": role, "content": content} for role, content in turns]

    def rendered(self, tokenizer: Any, name: str, prompt: str, conversation: Messages | None = None) -> str:
        """The text that the template makes of them for the model `name`; ModelError where it cannot."""
        try:
            text = tokenizer.apply_chat_template(
                self.messages(prompt, conversation),
                chat_template=self.template,
                add_generation_prompt=True,
                tokenize=False,
            )
        except Exception as error:  # a template raises whatever it likes
            raise ModelError(f"chat: the template cannot render a prompt for {name!r}: {error}") from error
        return str(text)


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


@dataclass(frozen=True, slots=True)
class ChatTokenizer(PlainTokenizer):
    """The same of a chat model, which takes conversations as well."""

    policy: EncodesPrompts

    def conversation_length(self, messages: Messages) -> int:
        """Tokens of a conversation under the template, less what the template adds to a single message."""
        rendered, single = (self.policy.encode_prompt(one) for one in (Prompt("", "", messages=messages), "x"))
        return len(rendered) - (len(single) - len(self.encode("x")))
