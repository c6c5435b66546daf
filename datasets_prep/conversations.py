"""Prompts that are conversations: lists of messages, `[{"role": "user", "content": "..."}]`, for policies with `chat:`.

1. Roles are `system`, `user` and `assistant`. A system message comes first, and replaces `chat.system`.
2. The prompt ends with the last user message; what follows it is an answer, and left out.
3. One user message alone is the same prompt as its text.
4. The text of a conversation, by which it is split, compared and shown to scorers, is what its messages say, a line
   each, without the system message.
5. A conversation is never cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignbench.records import Messages

_ROLES = ("system", "user", "assistant")


def is_conversation(value: object) -> bool:
    """True for a list of mappings: of messages, right or wrong ones."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def read_conversation(value: list[Mapping[str, Any]]) -> tuple[str, Messages | None]:
    """Returns the text of a conversation, and its messages where these are more than the text alone.

    Raises:
        ValueError: It is none; says what is expected.
    """
    messages = [_message(one) for one in value]
    roles = [role for role, _ in messages]
    if "system" in roles[1:]:
        raise ValueError("a system message at the start alone")
    if "user" not in roles:
        raise ValueError("at least one message with the role user")
    messages = messages[: len(roles) - roles[::-1].index("user")]
    if not messages[-1][1].strip():
        return "", None
    text = "\n".join(content for role, content in messages if role != "system")
    return text, None if len(messages) == 1 else tuple(messages)


def content_of(message: Mapping[str, Any]) -> Any:
    """Returns what a message says: a text, also where it is a list of parts that all are text."""
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    return content


def _message(one: Mapping[str, Any]) -> tuple[str, str]:
    role, content = one.get("role"), content_of(one)
    if role not in _ROLES or not isinstance(content, str):
        raise ValueError(f"messages with a role ({', '.join(_ROLES)}) and a text as content")
    return role, content
