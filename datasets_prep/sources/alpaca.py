"""Instructions with answers in the form of Alpaca: `instruction`, `input` (may be empty) and `output`.

`tatsu-lab/alpaca` on the hub (Taori et al. 2023), or any file of this form, such as a `.json` with a list. The prompt
is what Alpaca was trained on, with a heading for the input where there is one; a chat model is asked the instruction
and the input alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets_prep import hub
from datasets_prep.rows import Row, like
from datasets_prep.sources.base import Request, Source

HUB_ID = "tatsu-lab/alpaca"
ALONE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


def read_rows(request: Request) -> Sequence[Row]:
    """Returns the rows of the data set; DataError where it is not in the local cache and cannot be fetched."""
    rows = hub.read_rows(HUB_ID, request.split or "train", request.revision, request.key)
    return with_usual_columns(rows) or rows


def with_usual_columns(rows: Sequence[Row]) -> list[dict[str, Any]] | None:
    """Returns the rows with `prompt`, `completion` and `messages`; None where they have not the form of Alpaca."""
    names = set(rows[0]) if rows else set()
    if not {"instruction", "output"} <= names or "prompt" in names:
        return None
    return like(rows, ({**row, **_read(row)} for row in rows))


def _read(row: Row) -> dict[str, Any]:
    instruction, given, output = (row.get(name) or "" for name in ("instruction", "input", "output"))
    if not all(isinstance(text, str) for text in (instruction, given, output)):
        turns = [{"role": "user", "content": instruction}, {"role": "assistant", "content": output}]
        return {"prompt": instruction, "completion": output, "messages": turns}  # whoever reads it says what is wrong
    template = WITH_INPUT if given.strip() else ALONE
    prompt = template.format(instruction=instruction, input=given) if instruction.strip() else ""
    asked = f"{instruction}\n\n{given}" if given.strip() else instruction
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": output}]
    return {"prompt": prompt, "completion": output, "messages": turns}


plugin = Source(read_rows, has_messages=True, hub_id=HUB_ID, aliases=(HUB_ID,), of_layout=with_usual_columns)
