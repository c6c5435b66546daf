"""What runs were measured on, in words: how many prompts of how many rows, and in what two sets of prompts differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alignbench.results.reader import StoredEvaluation, StoredRun
from alignbench.results.schema import StoredRows

FIELD = "heldout_prompts"
"""The hash of the prompts among what must be equal in one table."""


def rows_notes(measured: Sequence[tuple[StoredRun, StoredEvaluation]]) -> list[str]:
    """Returns what became of the rows that the prompts come from, where some were left out."""
    said: dict[str, list[str]] = {}
    for run, evaluation in measured:
        rows = evaluation.record.prompt_rows
        if rows is not None and rows.left_out:
            said.setdefault(_left_out(rows), []).append(run.label)
    if len(said) == 1:
        return [f"Held-out prompts: {words}." for words in said]
    return [f"Held-out prompts of {', '.join(labels)}: {words}." for words, labels in said.items()]


def described(
    values: Mapping[str, tuple[str, ...]], measured: Sequence[tuple[StoredRun, StoredEvaluation]]
) -> dict[str, tuple[str, ...]]:
    """Returns the sides of a mismatch in `FIELD`, their hashes followed by words.

    Each set of prompts is compared with that of the first side, as far as the runs say which texts they hold out.
    """
    by_label = {run.label: (run, evaluation) for run, evaluation in measured}
    first, _ = by_label[next(iter(values.values()))[0]]
    found = {}
    for value, labels in values.items():
        run, evaluation = by_label[labels[0]]
        rows = evaluation.record.prompt_rows
        words = f"{evaluation.record.n_prompts} prompts"
        if rows is not None:
            words += f"; {_left_out(rows)}" if rows.left_out else f" of {rows.n_rows} rows"
        if run is not first:
            words += _beside(run, first)
        found[f"{value} ({words})"] = labels
    return found


def _left_out(rows: StoredRows) -> str:
    reasons = ", ".join(f"{n} {reason}" for reason, n in rows.left_out.items())
    limit = f"; prompts of up to {rows.longest_prompt} tokens fit" if rows.longest_prompt is not None else ""
    return f"of {rows.n_rows} rows {sum(rows.left_out.values())} were left out ({reasons}{limit})"


def _beside(run: StoredRun, first: StoredRun) -> str:
    if run.prompts is None or first.prompts is None:
        return ""
    own, others = run.prompts.heldout.keys(), first.prompts.heldout.keys()
    new, gone = own - others, others - own
    if not own or not others:
        return ""
    if not new and not gone:
        return f"; the same texts as {first.label}, but cut otherwise, with other ids or in another order"
    return f"; {len(new)} are not among those of {first.label}, and {len(gone)} of those are missing"
