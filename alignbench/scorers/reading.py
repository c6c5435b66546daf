"""What a classifier reads of a prompt and its completion: which tokens, and what gives way where they are too many.

The completion is what is judged, so it is read whole or not at all; a prompt that does not fit loses its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from torch import nn

from alignbench.errors import ModelError
from alignbench.models.forward import base_model, parameters_of
from alignbench.records import TextWindow
from alignbench.scorers.base import read_text

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel

_TURNS = ("user", "assistant")


@dataclass(frozen=True, slots=True, order=True)
class Reading:
    """What is read of one prompt and completion."""

    text: str
    ids: tuple[int, ...]
    """Token ids, special tokens included."""
    segments: tuple[int, ...]
    """Token types, where the tokenizer gives any but 0 and the model takes them; else empty."""
    is_cut: bool
    """True where the prompt has lost tokens on its left."""


class Reader:
    """Puts prompts and completions into one classifier. Reward models are trained on exactly what it gives."""

    def __init__(
        self, model: Any, tokenizer: Any, window: TextWindow, joint: str = "", *, where: str = "classifier"
    ) -> None:
        """Prepares reading.

        Args:
            model: A sequence classification model.
            tokenizer: Its own tokenizer.
            window: The completion, prompt and completion as one text, or both as turns of the tokenizer's template.
            joint: What comes between prompt and completion in one text, as in `base.read_text`.
            where: The block of the recipe named in errors.

        Raises:
            ModelError: Turns of a chat are asked for, and the tokenizer has no chat template.
        """
        if window == "chat" and not tokenizer.chat_template:
            raise ModelError(
                f"{where}.text: got chat, and the tokenizer of this classifier has no chat template; expected "
                "completion or prompt_and_completion, or a classifier that was trained on chat turns"
            )
        self.window, self.joint = window, joint
        self.limit = longest_input(model, tokenizer)
        """The most tokens that are read, special tokens included."""
        self.where, self._tokenizer = where, tokenizer
        self._n_words = vocabulary_size(model)
        ends = (getattr(tokenizer, f"{end}_token_id") for end in ("bos", "cls", "eos", "sep"))
        self._nothing = [token for token in ends if token is not None][:1]
        self._takes_segments = "token_type_ids" in parameters_of(type(base_model(model)).forward)

    def read(self, prompt: str, completion: str) -> Reading | None:
        """What is read; None where the classifier cannot read the completion whole.

        That is: without the whole prompt there are still too many tokens, or the model has no embedding for one of
        them. A text without tokens is read as the tokenizer's token for a beginning, or for an end, alone.
        """
        return self.read_all([(prompt, completion)])[0]

    def read_all(self, pairs: Sequence[tuple[str, str]]) -> list[Reading | None]:
        """Does the same for several prompts and completions, in one call of the tokenizer."""
        if not pairs:
            return []
        laid_out = [self._laid_out(*pair) for pair in pairs]
        encoded = self._encode([text for text, _ in laid_out])
        segments = encoded.get("token_type_ids") or [[]] * len(pairs)
        return [self._reading(*one) for one in zip(laid_out, encoded["input_ids"], segments, strict=True)]

    def _reading(self, laid_out: tuple[str, tuple[int, int]], ids: list[int], segments: list[int]) -> Reading | None:
        text, place = laid_out
        ids = ids or self._nothing
        n_over = len(ids) - self.limit
        if n_over > 0:
            dropped = self._prompt_tokens(text, place)[:n_over]
            if len(dropped) < n_over:
                return None
            kept = [i for i in range(len(ids)) if i not in set(dropped)]
            ids, segments = [ids[i] for i in kept], [segments[i] for i in kept] if segments else []
        if not ids or (self._n_words is not None and max(ids) >= self._n_words):
            return None
        has_segments = self._takes_segments and any(segments)
        return Reading(text, tuple(ids), tuple(segments) if has_segments else (), n_over > 0)

    def n_tokens(self, prompt: str, completion: str) -> int:
        """Tokens of all that would be read, had the classifier room for it."""
        return len(self._encode(self._laid_out(prompt, completion)[0])["input_ids"])

    def _laid_out(self, prompt: str, completion: str) -> tuple[str, tuple[int, int]]:
        """The whole text, and where in it the prompt begins and ends."""
        if self.window != "chat":
            text = read_text(prompt, completion, self.window, self.joint)
            return text, (0, 0 if self.window == "completion" else len(prompt))
        messages = [{"role": role, "content": text} for role, text in zip(_TURNS, (prompt, completion), strict=True)]
        try:
            text = str(self._tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception as error:  # whatever the template raises
            raise ModelError(f"{self.where}.text: the chat template cannot render a turn of each: {error}") from error
        # A template may strip what it is given. The prompt is the last of its kind before the completion.
        prompt, end = prompt.strip(), text.rfind(completion.strip())
        start = text.rfind(prompt, 0, max(0, end))
        return text, (start, start + len(prompt)) if start >= 0 else (0, 0)

    def _encode(self, text: str | list[str], **options: Any) -> Any:
        # A template writes the special tokens itself.
        return self._tokenizer(text, add_special_tokens=self.window != "chat", verbose=False, **options)

    def _prompt_tokens(self, text: str, place: tuple[int, int]) -> list[int]:
        """The places of the tokens that hold nothing but the prompt, from its left."""
        start, end = place
        if start == end:
            return []
        if not self._tokenizer.is_fast:  # it does not say where in the text its tokens are
            whole, prompt, empty = (self._encode(part)["input_ids"] for part in (text, text[:end], ""))
            return [] if self.window == "chat" else list(range(_n_equal(whole, empty), _n_equal(whole, prompt)))
        encoded = self._encode(text, return_offsets_mapping=True, return_special_tokens_mask=True)
        tokens = enumerate(zip(encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True))
        ordinary = [(i, *offsets) for i, (offsets, special) in tokens if not special]
        return [i for i, first, _ in takewhile(lambda token: token[2] <= end, ordinary) if first >= start]


def joint_of(policy: LanguageModel) -> str:
    """What comes between a prompt and its completion in one text: nothing where the completion goes on with it.

    An answer to a chat turn begins a line of its own, and what a decoder writes follows a space.
    """
    return "\n" if policy.chat is not None else " " if policy.is_encoder_decoder else ""


def longest_input(model: Any, tokenizer: Any) -> int:
    """The most tokens that a classifier reads: what its tokenizer and its configuration say, and its positions hold.

    Where positions are distances alone (T5, XLNet, DeBERTa), the configuration has no limit to say. RoBERTa and its kin
    count positions from one after the number of their pad token: 514 of them hold 512 tokens. BigBird's attention in
    blocks reads a text that is too short for its blocks whole, and every later one too: it is given no longer ones.
    """
    config = model.config.get_text_config()
    has_distances = hasattr(config, "relative_attention_num_buckets") or (
        getattr(config, "relative_attention", False) and not getattr(config, "position_biased_input", True)
    )
    named = [] if has_distances else [getattr(config, key, None) for key in ("max_position_embeddings", "max_seq_len")]
    if getattr(config, "attention_type", None) == "block_sparse":
        named.append((5 + 2 * config.num_random_blocks) * config.block_size)
    limits = [tokenizer.model_max_length, *named, *map(_n_positions, _position_tables(model))]
    return int(min(limit for limit in limits if limit and limit > 0))


def vocabulary_size(model: Any) -> int | None:
    """Rows of a model's word embeddings; None where it has no table of words."""
    try:
        embeddings = model.get_input_embeddings()
    except NotImplementedError:
        return None
    return embeddings.num_embeddings if isinstance(embeddings, nn.Embedding) else None


def _position_tables(model: Any) -> list[nn.Embedding]:
    """The embeddings of absolute positions."""
    found = []
    for name, module in model.named_modules():
        own = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and (own == "wpe" or "position" in own) and "relative" not in own:
            found.append(module)
    return found


def _n_positions(table: nn.Embedding) -> int:
    """The tokens that have a place in a table: some are kept free before the first (OPT, BART, RoBERTa)."""
    before = 0 if table.padding_idx is None else table.padding_idx + 1
    return table.num_embeddings - max(before, int(getattr(table, "offset", 0)))


def _n_equal(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
