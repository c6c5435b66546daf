"""Which tokens end a completion, fill empty places, and follow a prompt.

A tokenizer knows one end-of-sequence token, a chat model often has several. So the generation config, the model's
config and the chat template are asked too. What the model has no embedding of cannot be drawn or read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignbench.errors import ModelError
from alignbench.models.forward import base_model
from alignbench.models.sampling.token_draw import end_tokens

if TYPE_CHECKING:
    from alignbench.models.chat import Chat

_CONFIGS = ("the generation config", "the config")
_ANSWER = "answer"
"""What an assistant says in the conversation that shows how a template ends a turn."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The tokens that end a completion, and those that were named as such and are not taken."""

    token_ids: tuple[int, ...]
    """In ascending order, except that the tokenizer's own comes first."""
    left_out: tuple[str, ...]
    """A sentence on each of the others."""
    of_answer: int | None
    """What an answer is to be taught to end with: the chat template's, else the first one; None: there is none."""


def n_embeddings(model: Any) -> int:
    """Number of tokens that a model can read."""
    return int(base_model(model).get_input_embeddings().weight.shape[0])


def padding_id(model: Any, tokenizer: Any) -> int:
    """A token for empty places, which are always masked: the first of pad, end and 0 that the model has."""
    known = n_embeddings(model)
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((i for i in candidates if i is not None and 0 <= i < known), 0)


def check_known(ids: Sequence[int], model: Any, tokenizer: Any, name: str) -> None:
    """ModelError where a prompt has a token that the model has no embedding of."""
    if max(ids, default=0) >= n_embeddings(model):
        token = tokenizer.convert_ids_to_tokens(max(ids))
        raise ModelError(
            f"{name!r}: the tokenizer puts token {max(ids)} ({token!r}) into a prompt, and the model has embeddings of "
            f"{n_embeddings(model)} tokens only: give a model and a tokenizer that belong together"
        )


def ends_of(model: Any, tokenizer: Any, chat: Chat | None) -> Ends:
    """The tokens that end a completion by tokenizer, generation config, model config or, with `chat`, template."""
    inner = base_model(model)
    config = inner.config.get_text_config(decoder=True)
    named: dict[int, str] = {}

    def name(eos_id: Any, source: str) -> None:
        named.update({i: source for i in end_tokens(eos_id) if i >= 0 and i not in named})

    name(tokenizer.eos_token_id, "the tokenizer")
    turn = None if chat is None else _end_of_turn(tokenizer, chat)
    name(turn, "the chat template")
    own = getattr(getattr(inner, "generation_config", None), "eos_token_id", None)
    for eos_id, source in zip((own, getattr(config, "eos_token_id", None)), _CONFIGS, strict=True):
        name(eos_id, source)
    unknown = [i for i in named if i >= n_embeddings(model)]
    mere = [i for i, source in named.items() if source in _CONFIGS and _is_mere_default(i, config, own, tokenizer)]
    left_out = [
        f"{named[i]} ends completions with token {i}, the default of {type(config).__name__}; here it is the ordinary "
        f"word {tokenizer.decode([i])!r}, and is not taken for an end"
        for i in mere
        if i not in unknown
    ]
    if unknown:
        sources, ids = dict.fromkeys(named[i] for i in unknown), ", ".join(map(str, unknown))
        left_out.append(f"{' and '.join(sources)} would end completions with what the model has no embedding of: {ids}")
    kept = [i for i in named if i not in (*unknown, *mere)]
    first = [i for i in kept if named[i] == "the tokenizer"]
    ends = (*first, *sorted(set(kept).difference(first)))
    return Ends(ends, tuple(left_out), turn if turn in ends else next(iter(ends), None))


def _is_mere_default(token_id: int, config: Any, own: Any, tokenizer: Any) -> bool:
    """True where an end is what its configuration class starts with, in no list, and a common word to this tokenizer.

    Checkpoints trained from scratch with a tokenizer of their own often carry such an end along.
    """
    default = getattr(type(config), "eos_token_id", None)
    lists = (one for one in (own, getattr(config, "eos_token_id", None)) if isinstance(one, (list, tuple)))
    is_listed = any(token_id in one for one in lists)
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", ())}
    return token_id == default and not is_listed and token_id not in special


def _end_of_turn(tokenizer: Any, chat: Chat) -> int | None:
    """The special token after an assistant's answer in the chat template; None where there is none."""
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _ANSWER}]
    try:
        rendered = tokenizer.apply_chat_template(turns, chat_template=chat.template, tokenize=False)
    except Exception:  # a template may refuse what it likes; a prompt will show whether it can be used
        return None
    after = str(rendered).rpartition(_ANSWER)[2].strip()
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", ())}
    return int(ids[0]) if ids and ids[0] in special and ids[0] != tokenizer.unk_token_id else None


def added_after(tokenizer: Any) -> tuple[int, ...]:
    """What a tokenizer puts after every text: an end or separator token, or nothing."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = list(tokenizer("a")["input_ids"])
    if not bare or bare[-1] not in whole:
        return ()
    last = len(whole) - whole[::-1].index(bare[-1])
    return tuple(whole[last:])


def without_added(ids: Sequence[int], after: Sequence[int], n_bare: int) -> list[int]:
    """Token ids of a text without what the tokenizer has put after them; never nothing.

    Args:
        ids: With special tokens.
        after: From `added_after`, at least one.
        n_bare: Tokens of the text alone. Some tokenizers add no end where the text has one.
    """
    n = len(after)
    is_added = len(ids) > max(n, n_bare) and tuple(ids[-n:]) == tuple(after)
    return list(ids[:-n] if is_added else ids)
