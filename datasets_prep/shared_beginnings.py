"""Pairs whose prompt is not said: it is what the preferred and the other text begin with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from datasets_prep.conversations import is_conversation
from datasets_prep.role_markers import read_dialogue

_LAST_WORD = re.compile(r"\S*\Z")


def taken_apart(chosen: Any, rejected: Any) -> dict[str, Any]:
    """Returns `prompt` and `messages` of a pair, and `chosen` and `rejected` as they go on with it.

    Args:
        chosen: The preferred text, or a list of messages that ends with an answer.
        rejected: The other one, of the same kind.

    Of texts with markers of roles the prompt ends with the last one of an assistant that both share, of others with the
    last whole word. Two texts that begin differently have the prompt "".
    """
    if is_conversation(chosen) and is_conversation(rejected):
        shared = [one for one, _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False))]
        return {"prompt": _last_said(shared), "messages": shared or None, "chosen": chosen, "rejected": rejected}
    if not (isinstance(chosen, str) and isinstance(rejected, str)):
        return {"prompt": "", "messages": None, "chosen": chosen, "rejected": rejected}
    start = "".join(one for one, _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
    dialogue = read_dialogue(start)
    prompt = _whole_words(start, chosen, rejected) if dialogue is None else dialogue.prompt
    messages = [{"role": "user", "content": prompt}] if dialogue is None else dialogue.messages
    after = {"chosen": chosen[len(prompt) :], "rejected": rejected[len(prompt) :]}
    return {"prompt": prompt, "messages": messages if prompt else None, **after}


def _last_said(messages: Sequence[Mapping[str, Any]]) -> str:
    """What a shared conversation ends with; it has to be read as messages where there is more."""
    return str(messages[-1].get("content") or "") if len(messages) == 1 else ""


def _whole_words(start: str, *texts: str) -> str:
    """The shared beginning without a word that one of the texts goes on with, and without white space at its end."""
    is_cut = any(text[len(start) : len(start) + 1].strip() for text in texts)
    last = _LAST_WORD.search(start) if is_cut else None
    return start[: last.start() if last else len(start)].rstrip()
