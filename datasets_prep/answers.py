"""How the rows of a source go on with their prompts: completions by column, as text or as the end of a conversation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignbench.errors import DataError
from alignbench.records import Messages, Prompt
from datasets_prep.columns import cell, find_column, missing, read_prompts, without_surrogates
from datasets_prep.conversations import content_of, is_conversation, read_conversation
from datasets_prep.nested_text import unpacked
from datasets_prep.prepare import columns_of, read_pool, source_rows
from datasets_prep.rows import Row, faults_error, place, shown
from datasets_prep.settings import ColumnMapping, PromptSettings
from datasets_prep.splits import whole_text_hash
from datasets_prep.text_forms import normalised_text


@dataclass(frozen=True, slots=True)
class Answered:
    """The rows of a source, with their uncut prompts."""

    rows: Sequence[Row]
    prompts: Sequence[Prompt]
    origin: str
    """The key and the source, for messages."""
    in_messages: bool
    """True where completions are read from conversations, as by chat models of sources that have both."""

    def completions(self, wanted: str | None, usual: Sequence[str], what: str, option: str) -> list[str]:
        """Returns the completion of every row, "" where there is none.

        Args:
            wanted: The column, where the recipe names one.
            usual: Else the first of these.
            what: What the column is, in a word, for messages.
            option: The recipe's key that names it.

        Raises:
            DataError: There is no such column, it holds what is no text, or all its texts repeat their prompts.
        """
        column = find_column(self.rows, wanted, usual)
        if column is None:
            raise missing(self.rows, what, wanted, usual, self.origin, option)
        texts, faults = [], []
        for index, row in enumerate(self.rows):
            value = cell(row, column)
            text, expected = _answer(value), "text, or messages that end with the assistant's"
            if text is not None and _asks_otherwise(value, self.prompts[index]):
                text, expected = None, "an answer to the row's prompt (or name this column with data.columns.prompt)"
            if text is None:
                faults.append(f"{place(self.rows, index)}: column {column!r} holds {shown(value)}, expected {expected}")
            texts.append((text or "").strip() if self.in_messages else text or "")
        if faults:
            raise faults_error(self.origin, faults, f"Name another column with {option}.")
        both = [(said.text, text) for said, text in zip(self.prompts, texts, strict=True) if said.text and text]
        if len(both) > 1 and all(text.startswith(said) for said, text in both):
            raise DataError(
                f"{self.origin}: every text in column {column!r} begins with its prompt, expected what follows it. "
                f"Leave the prompt out there, or name another column with {option}."
            )
        return texts


def read_answered(
    settings: PromptSettings, nested: Sequence[ColumnMapping], *, key: str, conversations: bool
) -> Answered:
    """Reads the rows of a source and their prompts.

    Args:
        settings: Names the source (`prompts`) and its columns.
        nested: Further columns whose cells may hold structures as text.
        key: The recipe key that names the source, for messages.
        conversations: True where a prompt may be a list of messages.

    Raises:
        DataError: The source, or a prompt, cannot be read.
    """
    origin = f"{key}: {settings.prompts}"
    rows, source = source_rows(settings, "prompts", key)
    columns = columns_of(settings.columns, source, conversations=conversations)
    for one in (columns, *nested):
        rows, _ = unpacked(rows, one, origin)
    try:
        prompts = read_prompts(rows, columns, origin=origin, needs_toxicity=False, conversations=conversations)
    except DataError as error:
        raise under_key(error, key) from error
    return Answered(rows, prompts, origin, conversations and source is not None and source.has_messages)


def prompts_to_answer(settings: PromptSettings, *, key: str, conversations: bool) -> list[Prompt]:
    """Returns the uncut prompts of a source that pass its filters; errors are those of `read_answered`."""
    try:
        return read_pool(settings, "prompts", conversations=conversations)
    except DataError as error:
        raise under_key(error, key) from error


def under_key(error: DataError, key: str) -> DataError:
    """Returns what preparation says of `data.prompts` as said of a source that another key names."""
    said = str(error).removeprefix("data.prompts").removeprefix(key)
    return error if key == "data.prompts" else DataError(key + re.sub(r"\b(with|at|or) data\.", rf"\1 {key}.", said))


def ids_of_rows(prompts: Sequence[Prompt]) -> Callable[[Prompt], str | None]:
    """Returns what tells the prompt of a row, uncut, from prepared ones: its id among these; None where it is of none.

    Rows with one text have one prompt, whatever their own ids are: preparation keeps each text once.
    """
    own = {prompt.id: prompt.id for prompt in prompts}
    of_text = {_said(prompt): prompt.id for prompt in prompts}
    return lambda row: own.get(row.id) or of_text.get(_said(row))


def _said(prompt: Prompt) -> tuple[str, Messages]:
    """The whole text of a prompt, and what stands before its last message."""
    return whole_text_hash(prompt), (prompt.messages or ())[:-1]


def going_on(prompt: Prompt, uncut: Prompt, text: str, template: str | None, *, in_chat: bool) -> str | None:
    """Returns what follows a prompt; None where this is no beginning of its row.

    It is the row's completion after what was cut off, or after a template the completion alone: there a space comes
    between the two where neither has white space, but not where an answer is a turn of its own.
    """
    if template is not None:
        is_apart = in_chat or prompt.text[-1:].isspace() or text[:1].isspace()
        return text if is_apart else f" {text}"
    return uncut.text[len(prompt.text) :] + text if uncut.text.startswith(prompt.text) else None


def _answer(value: Any) -> str | None:
    """The text of a completion, that of the last message in a conversation; None where it is neither."""
    if value is None:
        return ""
    if is_conversation(value):
        last: Mapping[str, Any] = value[-1]
        value = content_of(last) if last.get("role") == "assistant" else None
    return without_surrogates(value) if isinstance(value, str) else None


def _asks_otherwise(value: Any, prompt: Prompt) -> bool:
    """True for a conversation whose last answer is one to something else than the prompt of its row."""
    if not (is_conversation(value) and prompt.text.strip()) or all(one.get("role") != "user" for one in value):
        return False
    try:
        asked, _ = read_conversation(value)
    except ValueError:
        return True
    return normalised_text(asked) != normalised_text(prompt.text)
