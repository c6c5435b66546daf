"""Train, validation and held-out: decided for each prompt alone, and checked never to meet.

The split hashes the text before cutting (`text_forms.split_text`), not the row's id. Two rows with the same text
therefore always fall into one split, whatever ids, files or case they come in; adding or removing rows moves no other
row; and a source splits alike under every recipe, whatever its tokenizer and prompt lengths. What the hash cannot rule
out is that cutting makes two texts equal, or that two differ in typographic quotes or dashes alone: then one of them is
dropped, and `check_no_leak` has the last word.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal

from alignbench.errors import LeakError
from alignbench.records import Prompt
from datasets_prep.prepared import PreparedData
from datasets_prep.text_forms import normalised_text, split_text

Split = Literal["train", "validation", "heldout"]
_N_EXAMPLES = 3


def whole_text_hash(prompt: Prompt) -> str:
    """Returns 16 hex digits that two prompts share exactly where they are the same text, however each was cut."""
    return prompt.whole_text_hash or hashlib.sha256(normalised_text(prompt.text).encode()).hexdigest()[:16]


def known_texts(data: PreparedData, heldout: Sequence[Prompt], *, trains: bool) -> tuple[set[str], dict[str, str]]:
    """Returns hashes of the whole texts that training could see, and of those it is evaluated on with their ids.

    Validation counts as seen, but for what the run is evaluated on: a trial is selected on validation prompts, and to
    itself these are held out.

    Args:
        data: The splits of the recipe.
        heldout: The prompts of the evaluation.
        trains: False where nothing is trained, and nothing was trained upstream.
    """
    held = {whole_text_hash(prompt): prompt.id for prompt in heldout}
    train, validation = ({whole_text_hash(prompt) for prompt in split} for split in (data.train, data.validation))
    return train | (validation - held.keys()) if trains else set(), held


def stable_hash(seed: int, purpose: str, value: str) -> int:
    """Returns 64 bits that depend on the three arguments alone; purposes give independent draws."""
    digest = hashlib.sha256(json.dumps([seed, purpose, value]).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def split_of(text: str, seed: int, validation_fraction: float, heldout_fraction: float) -> Split:
    """Returns the split of a prompt from its uncut text and from nothing else."""
    position = (stable_hash(seed, "split", split_text(text)) >> 11) / 2**53  # 53 bits: exact, and below 1
    if position < heldout_fraction:
        return "heldout"
    if position < heldout_fraction + validation_fraction:
        return "validation"
    return "train"


def apart_from(prompts: Sequence[Prompt], heldout: Sequence[Prompt]) -> list[Prompt]:
    """Returns the prompts that share no text with the held-out ones, neither cut nor whole."""
    texts = {normalised_text(prompt.text) for prompt in heldout}
    wholes = {whole_text_hash(prompt) for prompt in heldout}
    return [p for p in prompts if normalised_text(p.text) not in texts and whole_text_hash(p) not in wholes]


def check_no_leak(splits: Mapping[str, Sequence[Prompt]]) -> None:
    """Makes sure that no two splits share an id or a normalised text, cut or whole.

    Args:
        splits: The prompts of each split under the name that messages use.

    Raises:
        LeakError: They share one; names the splits and some examples.
    """
    for (first_name, first), (second_name, second) in combinations(splits.items(), 2):
        by_id = {prompt.id: prompt for prompt in first}
        by_text = {normalised_text(prompt.text): prompt for prompt in first}
        by_whole = {whole_text_hash(prompt): prompt for prompt in first}
        meetings = []
        for prompt in second:
            twin = by_text.get(normalised_text(prompt.text)) or by_whole.get(whole_text_hash(prompt))
            twin = twin or by_id.get(prompt.id)
            if twin is not None:
                meetings.append((twin, prompt))
        if meetings:
            raise LeakError(_leak_message(first_name, second_name, meetings))


def _leak_message(first_name: str, second_name: str, meetings: Sequence[tuple[Prompt, Prompt]]) -> str:
    same_text = sum(
        normalised_text(one.text) == normalised_text(other.text) or whole_text_hash(one) == whole_text_hash(other)
        for one, other in meetings
    )
    examples = "; ".join(
        f"{other.text[:80]!r} (id {other.id!r} in {second_name}; id {one.id!r} in {first_name})"
        for one, other in meetings[:_N_EXAMPLES]
    )
    more = f" and {len(meetings) - _N_EXAMPLES} more" if len(meetings) > _N_EXAMPLES else ""
    fix = f"Remove them from {first_name} or from {second_name}"
    fix += ", or set data.on_leak to drop: training loses them." if same_text else "."
    if same_text < len(meetings):
        fix += " Where only the ids are equal, name a column whose values are unique in both with data.columns.id."
    return (
        f"{first_name} and {second_name} share {len(meetings)} prompts ({same_text} by text, "
        f"{len(meetings) - same_text} by id alone): {examples}{more}. {fix}"
    )
