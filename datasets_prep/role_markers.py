"""Dialogues in one text, with markers of who speaks, such as `### Human: Hello. ### Assistant: Good morning.`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_AT_LINES = (("Human:", "Assistant:"), ("User:", "Assistant:"), ("USER:", "ASSISTANT:"))
_ANYWHERE = (
    *(("### Human:", "### Assistant:"), ("### User:", "### Assistant:"), ("### Instruction:", "### Response:")),
    ("<|user|>", "<|assistant|>"),
)


def _pattern(user: str, assistant: str, before: str) -> re.Pattern[str]:
    return re.compile(rf"{before}(?:(?P<user>{re.escape(user)})|(?P<assistant>{re.escape(assistant)}))", re.MULTILINE)


_PATTERNS = [_pattern(*markers, r"") for markers in _ANYWHERE] + [
    _pattern(*markers, r"^[ \t]*") for markers in _AT_LINES
]
"""Plain words are markers where a line begins with them; the rest says by itself what it is."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A text with markers, taken apart at the last of an assistant."""

    prompt: str
    """All before the last answer, with the marker that asks for it."""
    answer: str
    """What follows, as it stands there."""
    messages: list[dict[str, str]]
    """The same as messages, without markers; what comes before the first marker is the system's."""

    @property
    def answered(self) -> list[dict[str, str]]:
        """The messages up to the last answer, without what a person says after it."""
        last = max(i for i, one in enumerate(self.messages) if one["role"] == "assistant")
        return self.messages[: last + 1]


def read_dialogue(text: str) -> Dialogue | None:
    """Takes a dialogue apart; None where a text has no markers of one kind, a user's before an assistant's."""
    for pattern in _PATTERNS:
        found = list(pattern.finditer(text))
        roles = ["user" if one["user"] else "assistant" for one in found]
        if "assistant" not in roles or roles[0] != "user":
            continue
        ends = [one.start() for one in found[1:]] + [len(text)]
        contents = [text[one.end() : end].strip() for one, end in zip(found, ends, strict=True)]
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        if preamble := text[: found[0].start()].strip():
            messages.insert(0, {"role": "system", "content": preamble})
        last = len(roles) - 1 - roles[::-1].index("assistant")
        return Dialogue(text[: found[last].end()], text[found[last].end() : ends[last]], messages)
    return None
