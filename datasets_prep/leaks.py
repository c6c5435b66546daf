"""Leaving out of training what is held out elsewhere (`data.on_leak: drop`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from alignbench.errors import DataError
from alignbench.records import Prompt, fingerprint
from datasets_prep.neutral_texts import prompts_of
from datasets_prep.prepared import PreparedData
from datasets_prep.splits import apart_from


def without_leaks(data: PreparedData, heldout: Sequence[Prompt], neutral: Sequence[str]) -> PreparedData:
    """Returns the data without the prompts of training and validation that are held out, which `n_leaked` counts.

    Args:
        data: Prepared data.
        heldout: Prompts of another source that are evaluated on.
        neutral: Texts that are evaluated on.

    Raises:
        DataError: Nothing is left of a split.
    """
    kept = {}
    for split in ("train", "validation"):
        prompts: Sequence[Prompt] = getattr(data, split)
        told = {prompt.id for prompt in prompts_of(neutral, prompts)}
        kept[split] = tuple(prompt for prompt in apart_from(prompts, heldout) if prompt.id not in told)
        if prompts and not kept[split]:
            raise DataError(f"data.on_leak: every one of the {len(prompts)} {split} prompts is held out elsewhere.")
    n_leaked = len(data.train) + len(data.validation) - len(kept["train"]) - len(kept["validation"])
    counts = {f"n_{split}": len(prompts) for split, prompts in kept.items()}
    counts["n_leaked"] = int(data.statistics.get("n_leaked", 0)) + n_leaked
    return replace(
        data,
        train=kept["train"],
        validation=kept["validation"],
        fingerprint=fingerprint([data.fingerprint, [[prompt.id for prompt in prompts] for prompts in kept.values()]]),
        statistics={**data.statistics, **counts},
    )
