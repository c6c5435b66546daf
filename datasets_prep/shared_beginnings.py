"""Pairs whose prompt is not said: it is what the preferred and the other text begin with."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from datasets_prep.conversations import is_conversation
from datasets_prep.nested_text import parsed
from datasets_prep.role_markers import read_dialogue


def taken_apart(chosen: Any, rejected: Any) -> dict[str, Any]:
    """Returns `prompt` and `messages` of a pair, and `chosen` and `rejected` as they go on with it.

    Args:
        chosen: The preferred text, or a list of messages that ends with an answer.
        rejected: The other one, of the same kind.

    Of texts with markers of roles the prompt ends with the last one of an assistant that both share, of others with the
    last whole word. Two texts that begin differently have the prompt "".

    Lists of messages may be written as text. Where two conversations part before their last answers, these answer
    different things: the prompt is "" then. So are the messages of texts with markers, which go on to other turns.
    """
    chosen, rejected = (_as_messages(side) for side in (chosen, rejected))
    if is_conversation(chosen) and is_conversation(rejected):
        shared = [one for one, _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False))]
        if shared == chosen == rejected:
            shared.pop()
        if not len(shared) == len(chosen) - 1 == len(rejected) - 1:
            shared = []
        # What is more than one message has to be read as messages: as a prompt it says that it needs a chat.
        prompt = str(shared[0].get("content") or "") if len(shared) == 1 else shared or ""
        return {"prompt": prompt, "messages": shared or None, "chosen": chosen, "rejected": rejected}
    if not (isinstance(chosen, str) and isinstance(rejected, str)):
        return {"prompt": "", "messages": None, "chosen": chosen, "rejected": rejected}
    start = "".join(one for one, _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
    dialogue = read_dialogue(start)
    prompt = _whole_words(start, chosen, rejected) if dialogue is None else dialogue.prompt
    messages = [{"role": "user", "content": prompt}] if dialogue is None else dialogue.answered
    if dialogue is not None and any(_has_more_turns(prompt, side) for side in (chosen, rejected)):
        messages = []
    after = {"chosen": chosen[len(prompt) :], "rejected": rejected[len(prompt) :]}
    return {"prompt": prompt, "messages": messages if prompt and messages else None, **after}


def _as_messages(side: Any) -> Any:
    """A side with its messages in the place of their text, as pandas writes them into a CSV."""
    value = parsed(side) if isinstance(side, str) and side.lstrip().startswith("[") else None
    return value if is_conversation(value) else side


def _has_more_turns(prompt: str, side: str) -> bool:
    """True where more than one answer follows a prompt that ends with the marker of one."""
    whole = read_dialogue(side)
    return whole is not None and len(whole.prompt) > len(prompt)


def _whole_words(start: str, *texts: str) -> str:
    """The shared beginning without a word that one of the texts goes on with, and without white space at its end."""
    is_cut = any(text[len(start) : len(start) + 1].strip() for text in texts)
    last = start.split()[-1] if is_cut and start[-1:].strip() else ""
    return start[: len(start) - len(last)].rstrip()
