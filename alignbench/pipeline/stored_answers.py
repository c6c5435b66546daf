"""What a file of completions must be to be measured beside a run: complete, unique, and of prompts held out."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from alignbench.errors import DataError, LeakError, UsageError
from alignbench.evaluation.protocols import PROTOCOLS, get_protocol
from alignbench.records import Prompt
from alignbench.results.layout import COMPLETIONS_FILE
from alignbench.results.reader import StoredRun, scan_runs
from datasets_prep.splits import whole_text_hash
from datasets_prep.stored_completions import StoredAnswers

logger = logging.getLogger(__name__)


def check_answers(answers: StoredAnswers, file: str, protocol: str, like: StoredRun | None) -> None:
    """Raises what keeps a file of completions from being measured under a protocol.

    Args:
        answers: What the file holds.
        file: Its name, for messages.
        protocol: Name of the protocol.
        like: The run whose held-out prompts they answer; None: the file's own prompts are those of the evaluation.

    Raises:
        LeakError: Training of this run, or of one beside it, could see some of the prompts.
        DataError: Prompts are unknown, missing or repeated, or have too few completions.
    """
    if like is not None:
        _check_prompts(answers, file, like)
    wanted = get_protocol(protocol).samples_per_prompt
    numbers = {key: len(found) for key, found in answers.by_text.items()}
    least, most = min(numbers.values()), max(numbers.values())
    if least < most:
        few, many = (next(key for key, n in numbers.items() if n == wanted_n) for wanted_n in (least, most))
        raise DataError(
            f"{file}: got unequal numbers of completions per prompt, {least} of {_shown(answers, few)} and {most} of "
            f"{_shown(answers, many)}; expected {wanted} of each, as {protocol} draws: is a prompt repeated, or a row "
            "lost?"
        )
    if most < wanted:
        fitting = ", ".join(name for name, one in PROTOCOLS.items() if one.samples_per_prompt <= most)
        raise DataError(
            f"{file}: got {most} completions per prompt, expected {wanted}, as {protocol} draws; with so many it can "
            f"be measured under {fitting} (--set evaluation.protocol=NAME)"
        )
    if most > wanted:
        logger.warning(
            "%s: %d completions per prompt; the first %d of each count, as %s draws", file, most, wanted, protocol
        )


def _check_prompts(answers: StoredAnswers, file: str, like: StoredRun) -> None:
    held = _held_out(like)
    for run in scan_runs(like.path.parent.parent)[0]:
        leaked = sorted(answers.by_text.keys() & set(run.prompts.seen if run.prompts else ()))
        if leaked:
            raise LeakError(
                f"{file}: training of {run.label} could see {len(leaked)} of its prompts, for example "
                f"{_shown(answers, leaked[0])}; expected prompts that are held out, and no others"
            )
    known = {key for keys in held.values() for key in keys}
    unknown = sorted(answers.by_text.keys() - known)
    if unknown:
        raise DataError(
            f"{file}: got {len(unknown)} prompts that {like.label} was not measured on, for example "
            f"{_shown(answers, unknown[0])}; expected its {len(held)} held-out prompts (column `prompt` of its "
            f"{COMPLETIONS_FILE}), or --own-prompts for a table of their own"
        )
    lacking = [key for key, keys in held.items() if not answers.by_text.keys() & keys]
    if lacking:
        raise DataError(
            f"{file}: got no completion of {len(lacking)} of the {len(held)} prompts that {like.label} was measured "
            f"on, for example {lacking[0]!r}"
        )
    twice = [key for key, keys in held.items() if len(answers.by_text.keys() & keys) > 1]
    if twice:
        raise DataError(f"{file}: got the prompt {twice[0]!r} repeated, once whole and once cut; expected it once")


def _held_out(like: StoredRun) -> dict[str, Collection[str]]:
    """Of each held-out prompt its text, and the hashes of this text and of what it was cut from."""
    import pyarrow.parquet as pq

    [evaluation, *others] = like.evaluations or [None]
    path = evaluation.path / COMPLETIONS_FILE if evaluation else Path()
    if others or not path.is_file():
        raise UsageError(f"{like.path}: got no one evaluation with its completions, expected one to measure alike")
    table = pq.ParquetFile(path).read(columns=["prompt_id", "prompt"])
    texts = dict(zip(table.column("prompt_id").to_pylist(), table.column("prompt").to_pylist(), strict=True))
    wholes: dict[str, set[str]] = {}
    for key, prompt_id in (like.prompts.heldout if like.prompts else {}).items():
        wholes.setdefault(prompt_id, set()).add(key)
    return {text: {whole_text_hash(Prompt("", text)), *wholes.get(one, ())} for one, text in texts.items()}


def _shown(answers: StoredAnswers, key: str) -> str:
    return repr(answers.texts[key][:80])
